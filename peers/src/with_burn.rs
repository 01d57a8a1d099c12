//! burn, through its wgpu backend on Vulkan, with kernel fusion and autotuning.

use burn::module::Module;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{
    Embedding, EmbeddingConfig, Initializer, Linear, LinearConfig, RmsNorm, RmsNormConfig, RotaryEncoding,
    RotaryEncodingConfig, SwiGlu, SwiGluConfig,
};
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::wgpu::WgpuBackend;
use burn::tensor::{Device, DeviceKind, Int, Tensor, TensorData};
use sdmoe::gpu::{AdapterReport, adapters};

use crate::library::{DEVIATION, Dense, Library, Result, Text, Work, adamw};

pub struct Burn {
    device: Device,
    adapter: String,
}

impl Burn {
    /// Opens `adapter` a second time.
    pub fn open(adapter: &AdapterReport) -> Result<Self> {
        let alike = |other: &&AdapterReport| {
            (&other.backend, &other.device_type) == (&adapter.backend, &adapter.device_type)
                && other.index < adapter.index
        };
        let before = pollster::block_on(adapters())?.iter().filter(alike).count();
        let kind = match adapter.device_type.as_str() {
            "DiscreteGpu" => DeviceKind::DiscreteGpu(before),
            "IntegratedGpu" => DeviceKind::IntegratedGpu(before),
            "VirtualGpu" => DeviceKind::VirtualGpu(before),
            "Cpu" if before == 0 => DeviceKind::Cpu,
            other => return Err(format!("burn cannot name adapter {before} of the kind {other}").into()),
        };
        let options = Device::wgpu_options().device_kind(kind).graphics_api(WgpuBackend::Vulkan);
        let (device, setup) = options.init_with_setup()?;
        let info = setup.adapter.get_info();
        if info.name != adapter.name {
            return Err(format!("burn opened {} in place of {}", info.name, adapter.name).into());
        }
        Ok(Self { device, adapter: format!("{}, {} {}", info.name, info.driver, info.driver_info) })
    }
}

impl Library for Burn {
    fn name(&self) -> &'static str {
        "burn"
    }

    fn adapter(&self) -> String {
        self.adapter.clone()
    }

    fn product(&self, [m, k, n]: [usize; 3], a: &[f32], b: &[f32]) -> Result<Box<dyn Work>> {
        let matrix = |data: &[f32], shape| Tensor::from_data(TensorData::new(data.to_vec(), shape), &self.device);
        Ok(Box::new(Product { a: matrix(a, [m, k]), b: matrix(b, [k, n]), c: None }))
    }

    fn training(&self, model: &Dense, text: &Text) -> Result<Box<dyn Work>> {
        let device = self.device.clone().autodiff();
        let optimizer = AdamWConfig::new()
            .with_beta_1(adamw::BETA1)
            .with_beta_2(adamw::BETA2)
            .with_epsilon(adamw::EPS)
            .with_weight_decay(adamw::DECAY)
            .init();
        let ids = |ids: &[u32]| {
            let ids: Vec<i32> = ids.iter().map(|id| *id as i32).collect();
            Tensor::<1, Int>::from_data(TensorData::new(ids, [text.tokens.len()]), &device)
        };
        Ok(Box::new(Training {
            model: Some(Model::new(model, text.tokens.len(), &device)),
            shape: *model,
            optimizer,
            tokens: ids(&text.tokens).unsqueeze(),
            targets: ids(&text.targets),
            loss: None,
        }))
    }
}

struct Product {
    a: Tensor<2>,
    b: Tensor<2>,
    c: Option<Tensor<2>>,
}

impl Work for Product {
    fn run(&mut self) -> Result<()> {
        self.c = Some(self.a.clone().matmul(self.b.clone()));
        Ok(())
    }

    fn wait(&mut self) -> Result<()> {
        Ok(self.a.device().sync()?)
    }

    fn result(&mut self) -> Result<Vec<f32>> {
        numbers(&self.c)
    }
}

/// The elements of what the last run made.
fn numbers<const D: usize>(made: &Option<Tensor<D>>) -> Result<Vec<f32>> {
    let made = made.clone().ok_or("nothing has run")?;
    made.into_data().try_to_vec::<f32>().map_err(|error| format!("{error:?}").into())
}

struct Training {
    model: Option<Model>,
    shape: Dense,
    optimizer: ModuleOptimizer,
    tokens: Tensor<2, Int>,
    targets: Tensor<1, Int>,
    loss: Option<Tensor<1>>,
}

impl Work for Training {
    fn run(&mut self) -> Result<()> {
        let model = self.model.take().ok_or("a step has failed")?;
        let logits = model.forward(&self.shape, self.tokens.clone());
        let loss = CrossEntropyLossConfig::new().init(&logits.device()).forward(logits, self.targets.clone());
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        self.model = Some(self.optimizer.step(f64::from(adamw::RATE), model, gradients));
        self.loss = Some(loss.detach());
        Ok(())
    }

    fn wait(&mut self) -> Result<()> {
        Ok(self.tokens.device().sync()?)
    }

    fn result(&mut self) -> Result<Vec<f32>> {
        numbers(&self.loss)
    }
}

#[derive(Module, Debug)]
struct Model {
    embedding: Embedding,
    layers: Vec<Layer>,
    norm: RmsNorm,
    rope: RotaryEncoding,
}

#[derive(Module, Debug)]
struct Layer {
    attention_norm: RmsNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    hidden_norm: RmsNorm,
    hidden: SwiGlu,
    down: Linear,
}

impl Model {
    fn new(shape: &Dense, length: usize, device: &Device) -> Self {
        let d = shape.width;
        let norm = || RmsNormConfig::new(d).with_epsilon(f64::from(shape.norm_eps)).init(device);
        let linear = |from, to| LinearConfig::new(from, to).with_bias(false).init(device);
        let keys = shape.kv_heads * shape.head_dim();
        let layer = |_| Layer {
            attention_norm: norm(),
            query: linear(d, d),
            key: linear(d, keys),
            value: linear(d, keys),
            output: linear(d, d),
            hidden_norm: norm(),
            hidden: SwiGluConfig::new(d, shape.hidden).init(device),
            down: linear(shape.hidden, d),
        };
        let drawn = Initializer::Normal { mean: 0.0, std: f64::from(DEVIATION) };
        let rope = RotaryEncodingConfig::new(length, shape.head_dim()).with_theta(shape.rope_theta);
        Self {
            embedding: EmbeddingConfig::new(shape.vocab, d).with_initializer(drawn).init(device),
            layers: (0..shape.layers).map(layer).collect(),
            norm: norm(),
            rope: rope.init(device),
        }
    }

    /// Logits `[length, vocab]` of one sequence.
    fn forward(&self, shape: &Dense, tokens: Tensor<2, Int>) -> Tensor<2> {
        let mut x = self.embedding.forward(tokens);
        for layer in &self.layers {
            x = x.clone() + layer.attention(shape, &self.rope, layer.attention_norm.forward(x));
            x = x.clone() + layer.down.forward(layer.hidden.forward(layer.hidden_norm.forward(x)));
        }
        self.norm.forward(x).squeeze_dim::<2>(0).matmul(self.embedding.weight.val().transpose())
    }
}

impl Layer {
    fn attention(&self, shape: &Dense, rope: &RotaryEncoding, x: Tensor<3>) -> Tensor<3> {
        let [batch, length, width] = x.dims();
        let (heads, kv_heads, head_dim) = (shape.heads, shape.kv_heads, shape.head_dim());
        let split = |x: Tensor<3>, heads| x.reshape([batch, length, heads, head_dim]).swap_dims(1, 2);
        // Each head of the keys and values serves a group of the queries' heads.
        let repeat = |x: Tensor<4>| {
            let group = heads / kv_heads;
            let all = x.unsqueeze_dim::<5>(2).expand([batch, kv_heads, group, length, head_dim]);
            all.reshape([batch, heads, length, head_dim])
        };
        let q = rope.forward(split(self.query.forward(x.clone()), heads));
        let k = repeat(rope.forward(split(self.key.forward(x.clone()), kv_heads)));
        let v = repeat(split(self.value.forward(x), kv_heads));
        let causal = AttentionModuleOptions { is_causal: true, ..Default::default() };
        let mixed = attention(q, k, v, None, None, causal);
        self.output.forward(mixed.swap_dims(1, 2).reshape([batch, length, width]))
    }
}
