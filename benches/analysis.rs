//! The weight-only analysis of one layer with the shapes of Qwen1.5-MoE-A2.7B (60 experts, 2048 x 1408, bf16) against
//! reading it from the disk.
//!
//!     cargo bench --bench analysis                 # the layer; a number of experts may follow `--`
//!     cargo bench --bench analysis -- device 12    # products on the device, even where that is software
//!     cargo bench --bench analysis -- svd          # whole decompositions of one of its matrices: nalgebra, faer

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use sdmoe::analysis::Controls;
use sdmoe::analysis::spectra::{Elements, Products, SpectrumOptions, Stack};
use sdmoe::analysis::weights::{KindWeights, LayerFindings, LayerWeights, analyze_layer};
use sdmoe::gpu::{Gpu, GpuOptions};
use sdmoe::linalg::random::words;
use sdmoe::nn::config::ExpertMatrix;

const ROWS: usize = 1408;
const COLUMNS: usize = 2048;
const SIZE: usize = ROWS * COLUMNS;

/// Number `i` of a matrix: uniform noise, which has the spectrum of a Gaussian matrix, and every 64th row the same in
/// all matrices and ten times as large.
fn element(matrix: usize, i: usize) -> f32 {
    let shared = (i / COLUMNS).is_multiple_of(64);
    let stream = if shared { u32::MAX } else { matrix as u32 };
    let [word, ..] = words(1, stream, i as u32);
    (word as f32 / 2f32.powi(31) - 1.0) * if shared { 10.0 } else { 1.0 }
}

fn write(path: &Path, matrices: usize) {
    let mut file = File::create(path).expect("a temporary file");
    // Matrices repeat after seven: what they hold does not change the time.
    let distinct: Vec<Vec<u8>> = (0..7)
        .map(|m| (0..SIZE).flat_map(|i| ((element(m, i).to_bits() >> 16) as u16).to_le_bytes()).collect())
        .collect();
    for matrix in 0..matrices {
        file.write_all(&distinct[matrix % 7]).expect("room on the disk");
    }
}

/// Reads and widens some matrices, from any thread.
fn read(path: &Path, matrices: Range<usize>, buffer: &mut [f32]) -> sdmoe::Result<()> {
    let mut bytes = vec![0; SIZE * 2];
    let mut file = File::open(path).expect("the file");
    file.seek(SeekFrom::Start((matrices.start * SIZE * 2) as u64)).expect("seek");
    for matrix in buffer.chunks_exact_mut(SIZE) {
        file.read_exact(&mut bytes).expect("the file is whole");
        let halves = bytes.as_chunks::<2>().0;
        matrix.iter_mut().zip(halves).for_each(|(x, &b)| *x = f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16));
    }
    Ok(())
}

/// Puts a file out of the page cache, so that the next reader has the disk's speed; false where that cannot be had.
fn evict(path: &Path) -> bool {
    File::open(path).and_then(|f| f.sync_all()).expect("the file");
    let file = format!("if={}", path.display());
    let dd = Command::new("dd").args([&file, "iflag=nocache", "count=0", "status=none"]).status();
    dd.is_ok_and(|status| status.success())
}

/// Time to read the bytes of a file, one after the other.
fn reading(path: &Path) -> Duration {
    let started = Instant::now();
    let mut file = File::open(path).expect("the file");
    let mut block = vec![0; 8 << 20];
    while file.read(&mut block).expect("the file is whole") > 0 {}
    started.elapsed()
}

fn layer(experts: usize, products: Products) -> sdmoe::Result<()> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary folder");
    let path = folder.path().join("layer.bf16");
    write(&path, 3 * experts);
    let from_disk = evict(&path).then(|| reading(&path));
    let cached = reading(&path);

    let gpu = pollster::block_on(Gpu::open(&GpuOptions::default()))?;
    let waited = Mutex::new(Duration::ZERO);
    let reader = |kind: usize| {
        let (path, waited) = (&path, &waited);
        move |range: Range<usize>, buffer: &mut [f32]| {
            let started = Instant::now();
            read(path, kind * experts + range.start..kind * experts + range.end, buffer)?;
            *waited.lock().expect("no reader panics") += started.elapsed();
            Ok(())
        }
    };
    let readers = [reader(0), reader(1), reader(2)];
    let kinds: Vec<KindWeights<'_>> = ExpertMatrix::ALL
        .into_iter()
        .zip(&readers)
        .map(|(matrix, read)| {
            let [rows, columns] = if matrix == ExpertMatrix::Down { [COLUMNS, ROWS] } else { [ROWS, COLUMNS] };
            let merged = Stack { count: experts, rows, columns, transposed: true, elements: Elements::Read(read) };
            KindWeights { matrix, merged, decoupled: None }
        })
        .collect();
    let weights = LayerWeights { layer: 0, kinds: &kinds, router: None };
    let mut controls = Controls::default();
    // With one expert of a kind: compiles the kernels and measures the control, which all layers share.
    let first: Vec<KindWeights<'_>> =
        kinds[..1].iter().map(|k| KindWeights { merged: Stack { count: 1, ..k.merged }, ..*k }).collect();
    let started = Instant::now();
    let options = SpectrumOptions::default().products(products);
    let once = LayerWeights { layer: 0, kinds: &first, router: None };
    pollster::block_on(analyze_layer(&gpu, &once, &options, &mut controls))?;
    let control = started.elapsed();
    *waited.lock().expect("no reader panics") = Duration::ZERO;
    evict(&path);
    let started = Instant::now();
    let found = pollster::block_on(analyze_layer(&gpu, &weights, &options, &mut controls))?;
    let analysis = started.elapsed();
    let waited = waited.into_inner().expect("no reader panics");
    report(&gpu, experts, [from_disk.unwrap_or(cached), cached, control, analysis, waited], &found);
    Ok(())
}

fn report(gpu: &Gpu, experts: usize, times: [Duration; 5], found: &LayerFindings) {
    let matrices = 3 * experts;
    let [disk, cached, control, analysis, waited] = times.map(|t| t.as_secs_f64());
    println!("{} ({}), {matrices} matrices {ROWS} x {COLUMNS}", gpu.adapter().name, gpu.adapter().driver);
    println!("reading from the disk {disk:.2} s, from the page cache {cached:.2} s");
    println!("control, once for all layers {control:.2} s");
    println!(
        "analysis {analysis:.2} s: {:.1} times reading from the disk, {:.1} from the cache",
        analysis / disk,
        analysis / cached
    );
    println!("with the control {:.1} and {:.1} times", (analysis + control) / disk, (analysis + control) / cached);
    println!("of it reading and widening, in all threads {waited:.2} s");
    println!("{:.3} s a matrix", analysis / matrices as f64);
    for s in &found.similarity {
        println!(
            "{:?} {:?} {:?} r {}: {:?}, null {:.4}, control {:?}",
            s.matrix, s.side, s.part, s.r, s.mean_offdiag, s.null, s.control
        );
    }
}

fn whole() {
    let x: Vec<f64> = (0..SIZE).map(|i| f64::from(element(0, i))).collect();
    let y = faer::MatRef::from_row_major_slice(&x, ROWS, COLUMNS);
    let started = Instant::now();
    let s = y.singular_values().expect("singular values");
    println!("faer, values: {:.1} s, largest {}", started.elapsed().as_secs_f64(), s[0]);
    let started = Instant::now();
    let svd = y.thin_svd().expect("an SVD");
    println!("faer, whole: {:.1} s, largest {}", started.elapsed().as_secs_f64(), svd.S().column_vector()[0]);
    let started = Instant::now();
    let svd = nalgebra::DMatrix::from_row_slice(ROWS, COLUMNS, &x).svd(true, true);
    println!("nalgebra, whole: {:.1} s, largest {}", started.elapsed().as_secs_f64(), svd.singular_values[0]);
}

fn main() -> sdmoe::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let has = |name: &str| arguments.iter().any(|a| a == name);
    if has("svd") {
        whole();
        return Ok(());
    }
    let experts = arguments.iter().find_map(|a| a.parse().ok()).unwrap_or(60);
    layer(experts, if has("device") { Products::Device } else { Products::Fastest })
}
