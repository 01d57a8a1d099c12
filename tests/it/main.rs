//! The tests, a module a concern, in one program: they build once and can be carried to another machine.

/// A value with some fields changed, written as the literal that a `#[non_exhaustive]` struct does not allow outside its crate:
/// `with!(SpectralConfig { rank: 4, ..SpectralConfig::default() })`.
macro_rules! with {
    ($type:path { $($field:ident $(: $value:expr)?,)* ..$base:expr }) => {{
        let mut changed: $type = $base;
        $(changed.$field = with!(@value $field $($value)?);)*
        changed
    }};
    (@value $field:ident) => { $field };
    (@value $field:ident $value:expr) => { $value };
}

mod analysis_outputs;
mod analysis_tokens;
mod analysis_weights;
mod analyze;
mod attention_window;
mod bench;
mod by_layer;
mod cached_attention;
mod checkpoint_experts;
mod checkpoint_families;
mod checkpoint_foreign;
mod checkpoint_refusals;
mod cli;
mod common;
mod cooperative;
mod dense_layers;
mod device;
mod devices;
mod embedding;
mod examples;
mod export;
mod families;
mod fixtures;
mod fixtures_support;
mod foreign_device;
mod frames;
mod from;
mod gemm;
mod general_ops;
mod geometry;
mod hub;
mod inspect;
mod layers;
mod linalg;
mod loop_limit;
mod matrix_units;
mod memory;
mod muon;
mod optimizer;
mod own_op;
mod pipeline_cache;
mod precision;
mod precision_ops;
mod pruning;
mod random;
mod reference;
mod reference_self;
mod reference_training;
mod report;
mod report_browser;
mod rope;
mod router_ops;
mod routing;
mod runs;
mod settings;
mod shaders;
mod similarity;
mod spectral;
mod spectral_training;
mod steady_state;
mod tape;
mod token_corpus;
mod trace;
mod training;
mod transformer_ops;
mod tune;
mod u64_loads;
mod upcycle;
mod verify;
mod waiting;
mod weights16;
