//! How evenly a step has used the experts.

use crate::error::Result;
use crate::gpu::Gpu;
use crate::tensor::{DType, Tensor};
use crate::train::figures::ROW;

/// How evenly the experts are used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Load {
    /// Largest load of an expert over the even load, less 1; the worst layer.
    pub max_violation: f32,
    /// Experts without a token, over all layers.
    pub dead_experts: u32,
    /// The entropy of the load over its largest, `ln E`, of the most uneven layer: 1 is even; 1 for a single expert.
    pub entropy: f32,
}

/// Tokens of each expert in the last step, all its micro-batches, on the device.
#[derive(Debug)]
pub(super) struct ExpertCounts {
    /// `u32 [layers, E]` in rows that start aligned.
    rows: Tensor,
    experts: usize,
}

impl ExpertCounts {
    /// Zero counts.
    pub(super) fn new(gpu: &Gpu, layers: usize, experts: usize) -> Result<Self> {
        let rows = Tensor::persistent(gpu, [layers, experts.next_multiple_of(ROW)], DType::U32)?;
        Ok(Self { rows, experts })
    }

    /// The counts of layer `l`, `u32 [E]`.
    pub(super) fn layer(&self, l: usize) -> Result<Tensor> {
        let row = self.rows.slice(l..l + 1)?.reshape([self.rows.cols()])?;
        row.slice(0..self.experts)
    }

    /// Reads the counts, by layer.
    pub(super) async fn read(&self) -> Result<Vec<Vec<u32>>> {
        let counts = self.rows.to_u32().await?;
        Ok(counts.chunks(self.rows.cols().max(1)).map(|row| row[..self.experts].to_vec()).collect())
    }

    /// Reads how evenly the experts are used.
    pub(super) async fn load(&self) -> Result<Load> {
        let mut load = Load { entropy: 1.0, ..Load::default() };
        for row in &self.read().await? {
            let total: u64 = row.iter().map(|&c| u64::from(c)).sum();
            let most = row.iter().copied().max().unwrap_or(0);
            let violation = f64::from(most) * self.experts as f64 / total.max(1) as f64 - 1.0;
            load.max_violation = load.max_violation.max(violation as f32);
            load.entropy = load.entropy.min(entropy(row, total));
            load.dead_experts += row.iter().filter(|&&c| c == 0).count() as u32;
        }
        Ok(load)
    }
}

/// The entropy of `counts`, which add up to `total`, over that of an even load; 1 where there is nothing to tell.
fn entropy(counts: &[u32], total: u64) -> f32 {
    if counts.len() < 2 || total == 0 {
        return 1.0;
    }
    let shares = counts.iter().filter(|&&c| c > 0).map(|&c| f64::from(c) / total as f64);
    // Of one expert alone it is 0, not -0.
    (-shares.map(|p| p * p.ln()).sum::<f64>() / (counts.len() as f64).ln() + 0.0) as f32
}

#[cfg(test)]
mod tests {
    use super::entropy;

    #[test]
    fn the_load_has_an_entropy_of_1_where_it_is_even_and_of_0_where_one_expert_has_it_all() {
        assert!((entropy(&[3, 3, 3], 9) - 1.0).abs() < 1e-6);
        assert_eq!(entropy(&[0, 9, 0], 9).abs(), 0.0);
        assert!((entropy(&[4, 4, 0, 0], 8) - 0.5).abs() < 1e-6);
        assert_eq!((entropy(&[7], 7), entropy(&[0, 0], 0)), (1.0, 1.0));
    }
}
