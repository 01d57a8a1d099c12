//! meganeura, with the graph of SmolLM2 that comes with it.

use std::sync::Arc;

use meganeura::models::smollm2::{SmolLM2Config, build_training_graph};
use meganeura::{Graph, Mode, Session, SessionConfig, init_gpu_context_with};
use sdmoe::wgpu;

use crate::library::{DEVIATION, Dense, Library, Random, Result, Text, Work, adamw};

pub struct Meganeura {
    config: Box<dyn Fn(Mode) -> SessionConfig<'static>>,
    adapter: String,
}

impl Meganeura {
    /// Opens the adapter with the identifier of `info` again.
    pub fn open(info: &wgpu::AdapterInfo) -> Result<Self> {
        let options = meganeura::GpuOptions { device_id: Some(info.device), ..Default::default() };
        let context = Arc::new(init_gpu_context_with(options).map_err(|error| format!("{error:?}"))?);
        let info = context.device_information();
        let adapter = format!("{}, {} {}", info.device_name, info.driver_name, info.driver_info);
        let config = move |mode| SessionConfig { mode, gpu: Some(context.clone()), ..SessionConfig::from_env() };
        Ok(Self { config: Box::new(config), adapter })
    }
}

impl Library for Meganeura {
    fn name(&self) -> &'static str {
        "meganeura"
    }

    fn adapter(&self) -> String {
        self.adapter.clone()
    }

    fn product(&self, [m, k, n]: [usize; 3], a: &[f32], b: &[f32]) -> Result<Box<dyn Work>> {
        let mut graph = Graph::new();
        let (left, right) = (graph.input("a", &[m, k]), graph.parameter("b", &[k, n]));
        let product = graph.matmul(left, right);
        graph.set_outputs(vec![product]);
        let (mut session, _) = meganeura::build(&graph, (self.config)(Mode::Inference));
        session.set_input("a", a);
        session.set_parameter("b", b);
        Ok(Box::new(Running { session, elements: Some(m * n) }))
    }

    fn training(&self, model: &Dense, text: &Text) -> Result<Box<dyn Work>> {
        let config = SmolLM2Config {
            vocab_size: model.vocab,
            hidden_size: model.width,
            num_hidden_layers: model.layers,
            num_attention_heads: model.heads as u32,
            num_key_value_heads: model.kv_heads as u32,
            intermediate_size: model.hidden,
            rms_norm_eps: model.norm_eps,
            rope_theta: model.rope_theta,
            tie_word_embeddings: true,
        };
        let length = text.tokens.len();
        let graph = build_training_graph(&config, length);
        let (mut session, _) = meganeura::build(&graph, (self.config)(Mode::Training));
        let mut random = Random(1);
        let names: Vec<String> = session.param_names().into_iter().map(str::to_owned).collect();
        for name in names {
            let count = session.param_size(&name).ok_or("a parameter without a size")?;
            let norm = name.ends_with("norm.weight");
            session.set_parameter(&name, &if norm { vec![1.0; count] } else { random.fill(count, DEVIATION) });
        }
        let mut labels = vec![0.0; length * model.vocab];
        for (row, target) in labels.chunks_mut(model.vocab).zip(&text.targets) {
            row[*target as usize] = 1.0;
        }
        session.set_input_u32("token_ids", &text.tokens);
        session.set_input("labels", &labels);
        session.set_adam(adamw::RATE, adamw::BETA1, adamw::BETA2, adamw::EPS);
        session.set_weight_decay(adamw::DECAY);
        Ok(Box::new(Running { session, elements: None }))
    }
}

/// A session whose output is a product of so many elements, or a loss.
struct Running {
    session: Session,
    elements: Option<usize>,
}

impl Work for Running {
    fn run(&mut self) -> Result<()> {
        self.session.step();
        Ok(())
    }

    fn wait(&mut self) -> Result<()> {
        self.session.wait();
        Ok(())
    }

    fn result(&mut self) -> Result<Vec<f32>> {
        Ok(self.elements.map_or_else(|| vec![self.session.read_loss()], |count| self.session.read_output(count)))
    }
}
