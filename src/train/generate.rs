//! Text from a model of bytes, byte by byte.

use crate::data::offsets::uniform;
use crate::data::tokenizer::encode;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::nn::generate::Generator;
use crate::nn::model::Model;
use crate::nn::sample::Sampling;
use crate::train::Generation;

/// Goes on from `what.prompt`, handing over each byte as it is drawn. The model sees at most the last `context` bytes.
///
/// # Errors
/// [`crate::Error::Data`] for an empty prompt, [`crate::Error::Device`], or what `each` returns.
pub async fn generate(
    gpu: &Gpu,
    model: &Model,
    context: usize,
    what: &Generation,
    mut each: impl FnMut(u8) -> Result<()>,
) -> Result<()> {
    let sampling = Sampling::default().temperature(what.temperature).top_p(what.top_p);
    let mut generator = Generator::new(gpu, model, &encode(&what.prompt), context)?;
    for position in 0..what.tokens {
        let next = generator.next(&sampling, uniform(what.seed, &[position as u64])).await?;
        each(next as u8)?;
    }
    Ok(())
}
