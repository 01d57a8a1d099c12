//! sdmoe.

use pollster::block_on;
use sdmoe::low_level::kernels::gemm::{Trans, gemm};
use sdmoe::prelude::*;

use crate::library::{Dense, Library, Result, Text, Work, adamw};

pub struct Ours {
    pub gpu: Gpu,
}

impl Ours {
    /// Opens the adapter of this index, or the first with this in its name, or the fastest.
    pub fn open(adapter: Option<&str>) -> Result<Self> {
        let options = GpuOptions::default().adapter(AdapterChoice::from(adapter));
        Ok(Self { gpu: block_on(Gpu::open(&options))? })
    }
}

impl Library for Ours {
    fn name(&self) -> &'static str {
        "sdmoe"
    }

    fn adapter(&self) -> String {
        let adapter = self.gpu.adapter();
        format!("{}, {}", adapter.name, adapter.driver)
    }

    fn product(&self, [m, k, n]: [usize; 3], a: &[f32], b: &[f32]) -> Result<Box<dyn Work>> {
        let a = Tensor::from_f32(&self.gpu, [m, k], a)?;
        let b = Tensor::from_f32(&self.gpu, [k, n], b)?;
        let c = Tensor::persistent(&self.gpu, [m, n], DType::F32)?;
        Ok(Box::new(Product { a, b, c }))
    }

    fn training(&self, model: &Dense, text: &Text) -> Result<Box<dyn Work>> {
        let mut config = RunConfig::preset(Preset::Small);
        config.model.vocab = model.vocab;
        config.model.d_model = model.width;
        config.model.layers = model.layers;
        config.model.heads = model.heads;
        config.model.kv_heads = model.kv_heads;
        config.model.head_dim = model.head_dim();
        config.model.dense_layers = (0..model.layers).collect();
        config.model.d_dense = model.hidden;
        config.model.norm_eps = model.norm_eps;
        config.model.rope_theta = model.rope_theta;
        config.spectral.enabled = false;
        (config.train.batch, config.train.seq) = (1, text.tokens.len());
        let optimizer = &mut config.optimizer;
        (optimizer.lr, optimizer.min_lr_ratio, optimizer.warmup_steps) = (adamw::RATE, 1.0, 0);
        (optimizer.beta1, optimizer.beta2, optimizer.eps) = (adamw::BETA1, adamw::BETA2, adamw::EPS);
        (optimizer.weight_decay, optimizer.clip) = (adamw::DECAY, 0.0);
        let batch = Batch { tokens: text.tokens.clone(), targets: text.targets.clone() };
        Ok(Box::new(Training { trainer: Trainer::new(&self.gpu, &config)?, batch, loss: f32::NAN }))
    }
}

struct Product {
    a: Tensor,
    b: Tensor,
    c: Tensor,
}

impl Work for Product {
    fn run(&mut self) -> Result<()> {
        Ok(gemm(Trans::N, Trans::N, 1.0, &self.a, &self.b, 0.0, &self.c)?)
    }

    fn wait(&mut self) -> Result<()> {
        Ok(block_on(self.c.gpu().finish())?)
    }

    fn result(&mut self) -> Result<Vec<f32>> {
        Ok(block_on(self.c.to_f32())?)
    }
}

struct Training {
    trainer: Trainer,
    batch: Batch,
    loss: f32,
}

impl Work for Training {
    fn run(&mut self) -> Result<()> {
        Ok(self.trainer.step(std::slice::from_ref(&self.batch))?)
    }

    fn wait(&mut self) -> Result<()> {
        for report in block_on(self.trainer.reports(true))? {
            self.loss = report.loss;
        }
        Ok(block_on(self.trainer.gpu().finish())?)
    }

    fn result(&mut self) -> Result<Vec<f32>> {
        Ok(vec![self.loss])
    }
}
