//! Small checkpoints with the names of known families, written byte by byte.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use sdmoe::checkpoint::ExpertCheckpoint;
use sdmoe::nn::config::ExpertMatrix;
use serde_json::{Map, Value, json};

/// Whose names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    Qwen2Moe,
    Mixtral,
    Olmoe,
    DeepseekV2,
    /// Qwen2-MoE as transformers 5 writes it.
    Fused,
    Own,
}

impl Names {
    pub const ALL: [Names; 6] =
        [Names::Qwen2Moe, Names::Mixtral, Names::Olmoe, Names::DeepseekV2, Names::Fused, Names::Own];

    /// The family that the reader tells from the names.
    pub fn family(self) -> &'static str {
        match self {
            Names::Qwen2Moe | Names::Fused => "qwen2_moe",
            Names::Mixtral => "mixtral",
            Names::Olmoe => "olmoe",
            Names::DeepseekV2 => "deepseek_v2",
            Names::Own => "sdmoe",
        }
    }
}

/// One tensor on its way to a file.
#[derive(Clone, Debug)]
pub struct Stored {
    pub name: String,
    pub dtype: &'static str,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl Stored {
    pub fn new(name: impl Into<String>, dtype: &'static str, shape: &[usize], values: &[f32]) -> Self {
        let bytes = match dtype {
            "F32" => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            "F16" => values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
            "BF16" => values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
            "I32" => vec![0; 4 * values.len()],
            _ => vec![0; values.len()],
        };
        Self { name: name.into(), dtype, shape: shape.to_vec(), bytes }
    }

    /// Zeros, which no test looks at.
    pub fn zeros(name: impl Into<String>, dtype: &'static str, shape: &[usize]) -> Self {
        Self::new(name, dtype, shape, &vec![0.0; shape.iter().product()])
    }
}

/// Sizes of a model; the first `dense` layers have no experts.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub layers: usize,
    pub dense: usize,
    pub experts: usize,
    pub d: usize,
    pub f: usize,
}

/// Odd and all different, so that no mistaken stride or side goes unseen.
pub const SIZES: Sizes = Sizes { layers: 3, dense: 1, experts: 5, d: 7, f: 3 };

/// `W[i, o]` of an expert, METHOD's layout; exact in bf16 and f16, and no two neighbours alike.
pub fn value(layer: usize, matrix: ExpertMatrix, expert: usize, i: usize, o: usize) -> f32 {
    let mixed = [matrix as usize, expert, i, o].iter().fold(layer + 1, |h, x| (h * 31 + x + 1) * 17 % 65_537);
    (mixed % 251) as f32 / 64.0 - 1.25
}

/// The router's weight for input `i` of an expert.
pub fn routes(layer: usize, expert: usize, i: usize) -> f32 {
    value(layer, ExpertMatrix::Gate, expert + 100, i, 0)
}

/// In and out of a matrix.
pub fn shape(sizes: Sizes, matrix: ExpertMatrix) -> (usize, usize) {
    if matrix == ExpertMatrix::Down { (sizes.f, sizes.d) } else { (sizes.d, sizes.f) }
}

/// One expert's matrix, row-major, `in x out` or transposed.
pub fn weights(sizes: Sizes, layer: usize, matrix: ExpertMatrix, expert: usize, transposed: bool) -> Vec<f32> {
    let (m, n) = shape(sizes, matrix);
    let at = |i, o| value(layer, matrix, expert, i, o);
    if transposed {
        (0..n).flat_map(|o| (0..m).map(move |i| at(i, o))).collect()
    } else {
        (0..m).flat_map(|i| (0..n).map(move |o| at(i, o))).collect()
    }
}

/// All tensors of a model.
pub fn model(names: Names, dtype: &'static str, sizes: Sizes) -> Vec<Stored> {
    let Sizes { layers, dense, experts, d, f } = sizes;
    let mut tensors = Vec::new();
    let mut zeros = |name: String, shape: &[usize]| tensors.push(Stored::zeros(name, dtype, shape));
    if names == Names::Own {
        zeros("embed.weight".into(), &[9, d]);
        zeros("final_norm.weight".into(), &[d]);
    } else {
        zeros("model.embed_tokens.weight".into(), &[9, d]);
        zeros("model.norm.weight".into(), &[d]);
        zeros("lm_head.weight".into(), &[9, d]);
    }
    for l in 0..layers {
        let at = if names == Names::Own { format!("layers.{l}") } else { format!("model.layers.{l}") };
        let mut zeros = |name: &str, shape: &[usize]| tensors.push(Stored::zeros(format!("{at}.{name}"), dtype, shape));
        if names == Names::Own {
            zeros("attn.wq", &[d, d]);
            zeros("moe_norm.weight", &[d]);
            zeros("moe.shared.gate", &[d, f]);
        } else {
            zeros("self_attn.q_proj.weight", &[d, d]);
            zeros("input_layernorm.weight", &[d]);
        }
        if names == Names::Olmoe {
            zeros("self_attn.q_norm.weight", &[d]);
        }
        if l < dense {
            zeros("mlp.gate_proj.weight", &[f, d]);
            continue;
        }
        match names {
            Names::Qwen2Moe | Names::Fused => {
                zeros("mlp.shared_expert.down_proj.weight", &[d, f]);
                zeros("mlp.shared_expert_gate.weight", &[1, d]);
            }
            Names::DeepseekV2 => {
                zeros("mlp.shared_experts.down_proj.weight", &[d, f]);
                zeros("self_attn.kv_a_proj_with_mqa.weight", &[d, d]);
            }
            _ => {}
        }
        tensors.extend(moe(names, dtype, sizes, l, &at, experts));
    }
    tensors
}

fn moe(names: Names, dtype: &'static str, sizes: Sizes, l: usize, at: &str, experts: usize) -> Vec<Stored> {
    let (d, f) = (sizes.d, sizes.f);
    let all = |matrix, transposed| -> Vec<f32> {
        (0..experts).flat_map(|e| weights(sizes, l, matrix, e, transposed)).collect()
    };
    let mut tensors = Vec::new();
    match names {
        Names::Own => {
            let router: Vec<f32> = (0..d).flat_map(|i| (0..experts).map(move |e| routes(l, e, i))).collect();
            tensors.push(Stored::new(format!("{at}.moe.router"), dtype, &[d, experts], &router));
            for matrix in ExpertMatrix::ALL {
                let (m, n) = shape(sizes, matrix);
                let name = format!("{at}.moe.experts.{}", matrix.name());
                tensors.push(Stored::new(name, dtype, &[experts, m, n], &all(matrix, false)));
            }
            return tensors;
        }
        Names::Fused => {
            let both = [ExpertMatrix::Gate, ExpertMatrix::Up];
            let gate_up: Vec<f32> =
                (0..experts).flat_map(|e| both.map(|m| weights(sizes, l, m, e, true))).flatten().collect();
            let (name, shape) = (format!("{at}.mlp.experts.gate_up_proj"), [experts, 2 * f, d]);
            tensors.push(Stored::new(name, dtype, &shape, &gate_up));
            let (name, shape) = (format!("{at}.mlp.experts.down_proj"), [experts, d, f]);
            tensors.push(Stored::new(name, dtype, &shape, &all(ExpertMatrix::Down, true)));
        }
        _ => {
            for (e, matrix) in (0..experts).flat_map(|e| ExpertMatrix::ALL.map(|m| (e, m))) {
                let (m, n) = shape(sizes, matrix);
                let name = if names == Names::Mixtral {
                    format!("{at}.block_sparse_moe.experts.{e}.{}.weight", ["w1", "w3", "w2"][matrix as usize])
                } else {
                    format!("{at}.mlp.experts.{e}.{}_proj.weight", matrix.name())
                };
                tensors.push(Stored::new(name, dtype, &[n, m], &weights(sizes, l, matrix, e, true)));
            }
        }
    }
    let router: Vec<f32> = (0..experts).flat_map(|e| (0..d).map(move |i| routes(l, e, i))).collect();
    let block = if names == Names::Mixtral { "block_sparse_moe" } else { "mlp" };
    tensors.push(Stored::new(format!("{at}.{block}.gate.weight"), dtype, &[experts, d], &router));
    tensors
}

/// The header of a file.
pub fn header(tensors: &[Stored]) -> Value {
    let mut at = 0;
    let mut header = Map::new();
    for t in tensors {
        let place = [at, at + t.bytes.len()];
        header.insert(t.name.clone(), json!({ "dtype": t.dtype, "shape": t.shape, "data_offsets": place }));
        at += t.bytes.len();
    }
    header.insert("__metadata__".into(), json!({ "format": "pt" }));
    Value::Object(header)
}

/// A file with whatever header.
pub fn with_header(header: &Value, tensors: &[Stored]) -> Vec<u8> {
    let text = header.to_string();
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.as_bytes());
    tensors.iter().for_each(|t| bytes.extend(&t.bytes));
    bytes
}

/// Writes a file.
pub fn write(path: &Path, tensors: &[Stored]) {
    std::fs::write(path, with_header(&header(tensors), tensors)).unwrap();
}

/// Writes a model in `count` shards, dealing the tensors out like cards, and its index; returns the index's path.
pub fn write_shards(dir: &Path, tensors: &[Stored], count: usize) -> PathBuf {
    let name = |i: usize| format!("model-{:05}-of-{count:05}.safetensors", i + 1);
    let map: BTreeMap<_, _> = tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), name(i % count))).collect();
    for i in 0..count {
        let part: Vec<_> = tensors.iter().skip(i).step_by(count).cloned().collect();
        write(&dir.join(name(i)), &part);
    }
    let index = dir.join("model.safetensors.index.json");
    std::fs::write(&index, json!({ "metadata": { "total_size": 0 }, "weight_map": map }).to_string()).unwrap();
    index
}

/// Opens a good checkpoint.
pub fn open(path: &Path) -> ExpertCheckpoint {
    ExpertCheckpoint::open(path).unwrap_or_else(|e| panic!("{e}"))
}

/// Opens and reads all there is.
pub fn read_all(path: &Path) -> sdmoe::Result<()> {
    let checkpoint = ExpertCheckpoint::open(path)?;
    for layer in checkpoint.layers() {
        checkpoint.router(layer)?;
        for matrix in ExpertMatrix::ALL {
            let mut out = vec![0.0; layer.experts * layer.numel()];
            checkpoint.read(layer, matrix, 0..layer.experts, &mut out)?;
        }
    }
    Ok(())
}

/// Checks every number of a model of [`SIZES`].
pub fn check(checkpoint: &ExpertCheckpoint, names: Names, dense: usize) {
    let numbers: Vec<usize> = checkpoint.layers().iter().map(|l| l.number).collect();
    assert_eq!(numbers, (dense..SIZES.layers).collect::<Vec<_>>(), "{names:?}");
    for layer in checkpoint.layers() {
        assert_eq!((layer.experts, layer.d_model, layer.d_expert), (SIZES.experts, SIZES.d, SIZES.f));
        assert_eq!(layer.transposed, names != Names::Own);
        for matrix in ExpertMatrix::ALL {
            let (m, n) = shape(SIZES, matrix);
            let stored = layer.shape(matrix);
            let wanted = if stored.transposed { (n, m) } else { (m, n) };
            assert_eq!((stored.rows, stored.columns), wanted, "{names:?}");
            assert_eq!(if layer.rows_are_model(matrix) { SIZES.d } else { SIZES.f }, stored.rows);
            let one = |e| weights(SIZES, layer.number, matrix, e, stored.transposed);
            let mut out = vec![0.0; 3 * layer.numel()];
            checkpoint.read(layer, matrix, 1..4, &mut out).unwrap();
            assert_eq!(out, (1..4).flat_map(one).collect::<Vec<_>>(), "{names:?} {matrix:?}");
            for e in 0..SIZES.experts {
                assert_eq!(checkpoint.matrix(layer, matrix, e).unwrap(), one(e), "{names:?} {e}");
            }
        }
        let routers: Vec<f32> =
            (0..SIZES.experts).flat_map(|e| (0..SIZES.d).map(move |i| routes(layer.number, e, i))).collect();
        assert_eq!(checkpoint.router(layer).unwrap().unwrap(), routers, "{names:?}");
    }
}
