//! The weight-only analysis of one layer with the shapes of Qwen1.5-MoE-A2.7B (60 experts, 2048 x 1408, bf16) against
//! reading it from the disk.
//!
//!     cargo bench --bench analysis              # the layer; a number of experts may follow `--`
//!     cargo bench --bench analysis -- svd       # whole decompositions of one of its matrices: nalgebra, faer

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use sdmoe::analysis::Controls;
use sdmoe::analysis::spectra::{Elements, SpectrumOptions, Stack};
use sdmoe::analysis::weights::{KindWeights, LayerFindings, LayerWeights, analyze_layer};
use sdmoe::gpu::{Gpu, GpuOptions};
use sdmoe::linalg::random::words;
use sdmoe::nn::config::ExpertMatrix;

const ROWS: usize = 1408;
const COLUMNS: usize = 2048;
const SIZE: usize = ROWS * COLUMNS;

/// Number `i` of a matrix: uniform noise, which has the spectrum of a Gaussian matrix, and every 64th row the same in all
/// matrices and ten times as large.
fn element(matrix: usize, i: usize) -> f32 {
    let shared = (i / COLUMNS).is_multiple_of(64);
    let stream = if shared { u32::MAX } else { matrix as u32 };
    let [word, ..] = words(1, stream, i as u32);
    (word as f32 / 2f32.powi(31) - 1.0) * if shared { 10.0 } else { 1.0 }
}

fn write(path: &std::path::Path, matrices: usize) {
    let mut file = File::create(path).expect("a temporary file");
    // Matrices repeat after seven: what they hold does not change the time.
    let distinct: Vec<Vec<u8>> = (0..7)
        .map(|m| (0..SIZE).flat_map(|i| ((element(m, i).to_bits() >> 16) as u16).to_le_bytes()).collect())
        .collect();
    for matrix in 0..matrices {
        file.write_all(&distinct[matrix % 7]).expect("room on the disk");
    }
}

fn read(file: &Mutex<File>, matrices: Range<usize>, buffer: &mut [f32]) -> sdmoe::Result<()> {
    let mut bytes = vec![0; SIZE * 2];
    let mut file = file.lock().expect("no reader panics");
    file.seek(SeekFrom::Start((matrices.start * SIZE * 2) as u64)).expect("seek");
    for matrix in buffer.chunks_exact_mut(SIZE) {
        file.read_exact(&mut bytes).expect("the file is whole");
        let halves = bytes.as_chunks::<2>().0;
        matrix.iter_mut().zip(halves).for_each(|(x, &b)| *x = f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16));
    }
    Ok(())
}

fn layer(experts: usize) -> sdmoe::Result<()> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("layer.bf16");
    write(&path, 3 * experts);
    let file = Mutex::new(File::open(&path).expect("the file"));
    let started = Instant::now();
    let mut buffer = vec![0.0; SIZE];
    for matrix in 0..3 * experts {
        read(&file, matrix..matrix + 1, &mut buffer)?;
    }
    let reading = started.elapsed();

    let gpu = pollster::block_on(Gpu::open(&GpuOptions::default()))?;
    let waited = Mutex::new(Duration::ZERO);
    let reader = |kind: usize| {
        let (file, waited) = (&file, &waited);
        move |range: Range<usize>, buffer: &mut [f32]| {
            let started = Instant::now();
            read(file, kind * experts + range.start..kind * experts + range.end, buffer)?;
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
    let options = SpectrumOptions::default();
    let once = LayerWeights { layer: 0, kinds: &first, router: None };
    pollster::block_on(analyze_layer(&gpu, &once, &options, &mut controls))?;
    let control = started.elapsed();
    *waited.lock().expect("no reader panics") = Duration::ZERO;
    let started = Instant::now();
    let found = pollster::block_on(analyze_layer(&gpu, &weights, &options, &mut controls))?;
    let analysis = started.elapsed();
    let waited = waited.into_inner().expect("no reader panics");
    report(&gpu, experts, [reading, control, analysis, waited], &found);
    Ok(())
}

fn report(gpu: &Gpu, experts: usize, [reading, control, analysis, waited]: [Duration; 4], found: &LayerFindings) {
    let matrices = 3 * experts;
    println!("{} ({}), {matrices} matrices {ROWS} x {COLUMNS}", gpu.adapter().name, gpu.adapter().driver);
    println!("reading and widening {:.2} s", reading.as_secs_f64());
    println!("control, once for all layers {:.2} s", control.as_secs_f64());
    let ratio = |part: Duration| part.as_secs_f64() / reading.as_secs_f64();
    println!("analysis {:.2} s, {:.1} times reading", analysis.as_secs_f64(), ratio(analysis));
    println!("with the control {:.1} times reading", ratio(analysis + control));
    println!("of it reading {:.2} s", waited.as_secs_f64());
    println!("{:.3} s a matrix", analysis.as_secs_f64() / matrices as f64);
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
    let argument = std::env::args().skip(1).find(|a| !a.starts_with('-'));
    match argument.as_deref() {
        Some("svd") => whole(),
        count => layer(count.and_then(|c| c.parse().ok()).unwrap_or(60))?,
    }
    Ok(())
}
