//! The context of a case: its device, and the findings that it makes.

use std::pin::Pin;

use super::Level;
use super::shader::Evidence;
use crate::autograd::Array;
use crate::autograd::Op;
use crate::autograd::check::{Check, Deviation, Input, Tolerance, deviation};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Tier};
use crate::tensor::{DType, Tensor};

/// The variant of cases that look at the driver and not at a family of kernels.
pub(super) const DRIVER: &str = "driver";

/// The word that fills memory which a kernel should write, or not read: a NaN that no arithmetic gives.
pub(super) const POISON: u32 = 0x7fc0_dead;
/// Free buffers of the pool beyond this size are not poisoned.
const POISONED_BYTES: u64 = 64 << 20;
/// Bytes before and after a tensor that nobody may write.
const GUARD: usize = 1024;

/// A case's device and random numbers.
pub(super) struct Context {
    pub gpu: Gpu,
    pub seed: u64,
    /// Whether results are kept for a comparison.
    pub keeps_results: bool,
}

/// The results of a case's comparisons.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// The comparison that came closest to what is allowed.
    pub worst: Option<Deviation>,
    /// The first thing that is wrong.
    pub wrong: Option<String>,
    /// The results that were repeated, as they were the first time.
    pub results: Vec<Vec<f32>>,
    /// Notes for a person, which decide nothing.
    pub notes: Vec<String>,
    /// The shader with its buffers, where one of the case's own failed.
    pub evidence: Option<Box<Evidence>>,
}

impl Findings {
    /// Keeps that something is wrong; the first counts.
    pub fn wrong(&mut self, message: impl Into<String>) {
        self.wrong.get_or_insert(message.into());
    }

    /// Keeps something worth telling.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Keeps how far something is from what is right.
    pub fn deviation(&mut self, deviation: Deviation) {
        if !deviation.is_allowed() {
            self.wrong(deviation.message.clone());
        }
        let share = |d: &Deviation| if d.error == 0.0 { 0.0 } else { d.error / d.allowed };
        if self.worst.as_ref().is_none_or(|worst| !share(&deviation).total_cmp(&share(worst)).is_lt()) {
            self.worst = Some(deviation);
        }
    }

    /// As [`deviation`], what is of another size being wrong.
    pub fn compare(&mut self, what: &str, got: &[f32], want: &Array, tolerance: f64) {
        match deviation(what, got, want, tolerance) {
            Ok(deviation) => self.deviation(deviation),
            Err(message) => self.wrong(message),
        }
    }

    /// A number that may be at most `allowed`.
    pub fn at_most(&mut self, what: &str, error: f64, allowed: f64) {
        let message = format!("{what}: {error:.3e}, allowed {allowed:.3e}");
        self.deviation(Deviation { error: if error.is_nan() { f64::INFINITY } else { error }, allowed, message });
    }

    /// Sums of k products of f32 each: element i may be off by `2 (k + 2) eps bound[i]`, the bound being the sum of the products'
    /// absolute values; twice what rounding alone gives, for alpha and beta.
    pub fn sums(&mut self, what: &str, got: &[f32], want: &Array, bound: &Array, k: usize) {
        let factor = 2.0 * (k + 2) as f64 * 6e-8;
        if got.len() != want.data.len() {
            return self.wrong(format!("{what}: {} elements, expected {:?}", got.len(), want.shape));
        }
        let mut worst: Option<Deviation> = None;
        for (i, ((&got, &want), &bound)) in got.iter().zip(&want.data).zip(&bound.data).enumerate() {
            let error = if got.is_finite() { (f64::from(got) - want).abs() } else { f64::INFINITY };
            let allowed = factor * bound + 1e-30;
            if worst.as_ref().is_none_or(|w| error * w.allowed > w.error * allowed) {
                let message =
                    format!("{what}: element {i} is {got}, expected {want}; off by {error:.3e}, allowed {allowed:.3e}");
                worst = Some(Deviation { error, allowed, message });
            }
        }
        worst.into_iter().for_each(|worst| self.deviation(worst));
    }

    /// Whole numbers, which must be the same.
    pub fn same(&mut self, what: &str, got: &[u32], want: &[u32]) {
        if got.len() != want.len() {
            return self.wrong(format!("{what}: {} elements, expected {}", got.len(), want.len()));
        }
        if let Some(i) = got.iter().zip(want).position(|(got, want)| got != want) {
            let count = got.iter().zip(want).filter(|(got, want)| got != want).count();
            let of = got.len();
            self.wrong(format!("{what}: element {i} is {}, expected {}; {count} of {of} differ", got[i], want[i]));
        }
    }

    /// Results of two runs, which must have the same bits.
    pub fn repeats(&mut self, what: &str, first: &[Vec<f32>], second: &[Vec<f32>]) {
        for (part, (a, b)) in first.iter().zip(second).enumerate() {
            let differs = |(a, b): (&f32, &f32)| a.to_bits() != b.to_bits();
            if a.len() != b.len() {
                self.wrong(format!(
                    "{what}: part {part} has {} elements in one run and {} in another",
                    a.len(),
                    b.len()
                ));
            } else if let Some(i) = a.iter().zip(b).position(differs) {
                let (a, b) = (a[i], b[i]);
                self.wrong(format!(
                    "{what}: element {i} of part {part} is {a} in one run and {b} in the next, for which free memory was poisoned"
                ));
            }
        }
    }
}

impl Context {
    /// `x` on the device.
    pub fn upload(&self, x: &Array) -> Result<Tensor> {
        Tensor::from_f32(&self.gpu, &x.shape, &x.to_f32())
    }

    /// `x` on the device, stored so.
    pub fn stored(&self, x: &Array, dtype: DType) -> Result<Tensor> {
        let tensor = Tensor::empty(&self.gpu, &x.shape, dtype)?;
        tensor.write_f32(&x.to_f32()).map(|()| tensor)
    }

    /// Runs `run` twice, with the pool's free memory poisoned before the second time; the results must have the same bits.
    pub async fn twice(
        &self,
        what: &str,
        found: &mut Findings,
        mut run: impl AsyncFnMut() -> Result<Vec<Vec<f32>>>,
    ) -> Result<Vec<Vec<f32>>> {
        let first = run().await?;
        self.gpu.fill_free(POISONED_BYTES, POISON)?;
        let second = run().await?;
        found.repeats(what, &first, &second);
        if self.keeps_results {
            found.results.extend_from_slice(&first);
        }
        Ok(first)
    }

    /// Compares an op with its reference, forward and backward, and its second run with its first.
    pub async fn op(
        &self,
        op: impl Op + 'static,
        inputs: &[Input],
        tolerance: Tolerance,
        seed: u64,
    ) -> Result<Findings> {
        let mut found = Findings::default();
        let check = Check::new(op, inputs, seed.wrapping_add(self.seed.wrapping_mul(1000)));
        let mut given = None;
        self.twice("forward and gradients", &mut found, async || {
            let now = check.run(&self.gpu).await?;
            let mut parts = vec![now.output.clone()];
            parts.extend(now.gradients.iter().flatten().map(Array::to_f32));
            given.get_or_insert(now);
            Ok(parts)
        })
        .await?;
        if let Some(given) = given {
            match check.deviations(&given, tolerance) {
                Ok(deviations) => deviations.into_iter().for_each(|d| found.deviation(d)),
                Err(message) => found.wrong(message),
            }
        }
        Ok(found)
    }
}

/// A tensor between two stretches of poison, and poisoned itself unless it is given content.
pub(super) struct Guarded {
    whole: Tensor,
    /// The tensor.
    pub inner: Tensor,
    /// Elements of a guard.
    guard: usize,
}

impl Guarded {
    /// A poisoned one of f32.
    pub fn new(gpu: &Gpu, shape: &[usize]) -> Result<Self> {
        let guard = (GUARD / 4).next_multiple_of(gpu.offset_alignment() as usize / 4);
        let size: usize = shape.iter().product();
        let whole = Tensor::empty_f32(gpu, [size + 2 * guard])?;
        whole.write_f32(&vec![f32::from_bits(POISON); whole.numel()])?;
        let inner = whole.slice(guard..guard + size)?.reshape(shape)?;
        Ok(Self { whole, inner, guard })
    }

    /// One that holds `x`.
    pub fn holding(gpu: &Gpu, x: &Array) -> Result<Self> {
        let new = Self::new(gpu, &x.shape)?;
        new.inner.write_f32(&x.to_f32())?;
        Ok(new)
    }

    /// The tensor's elements; a guard that was written is wrong, and so is an element that was not, unless `sparse`.
    pub async fn read(&self, what: &str, sparse: bool, found: &mut Findings) -> Result<Vec<f32>> {
        let all = self.whole.to_f32().await?;
        let end = all.len() - self.guard;
        let is_poison = |x: &f32| x.to_bits() == POISON;
        let mut outside = (0..self.guard).chain(end..all.len());
        if let Some(i) = outside.find(|&i| !is_poison(&all[i])) {
            let (side, distance) =
                if i < end { ("before its begin", self.guard - i) } else { ("behind its end", i - end) };
            found.wrong(format!("{what}: element {distance} {side} was written"));
        }
        let inner = all[self.guard..end].to_vec();
        if let Some(i) = inner.iter().position(is_poison).filter(|_| !sparse) {
            found.wrong(format!("{what}: element {i} was not written"));
        }
        Ok(inner)
    }
}

/// A need of a case beside the tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// Storage in f16.
    F16,
    /// A folder for files.
    Folder,
    /// Matrix units that were asked for.
    MatrixUnits,
}

/// The findings of a case, once it has waited for the device.
pub(super) type Finding<'a> = Pin<Box<dyn Future<Output = Result<Findings>> + 'a>>;

/// The work of a case, which may go to another thread before it begins.
pub(super) type Work = Box<dyn for<'a> FnOnce(&'a Context) -> Finding<'a> + Send>;

/// A case that has not run yet.
pub(super) struct Case {
    pub name: String,
    /// The least level at which it runs.
    pub level: Level,
    pub needs: Vec<Needs>,
    /// The variant that it is told under, where that is not the tier's name.
    pub variant: Option<String>,
    pub work: Work,
}

impl Case {
    /// A case of this name, whose group is what stands before the last `/`.
    pub fn new(
        level: Level,
        name: impl Into<String>,
        work: impl AsyncFnOnce(&Context) -> Result<Findings> + Send + 'static,
    ) -> Self {
        let work: Work = Box::new(|context| Box::pin(work(context)));
        Self { name: name.into(), level, needs: Vec::new(), variant: None, work }
    }

    pub fn needs(mut self, needs: Needs) -> Self {
        self.needs.push(needs);
        self
    }

    pub fn variant(self, variant: impl Into<String>) -> Self {
        Self { variant: Some(variant.into()), ..self }
    }

    pub fn group(&self) -> &str {
        self.name.rsplit_once('/').map_or(self.name.as_str(), |(group, _)| group)
    }

    /// Why it cannot run on this device.
    pub fn lacks(&self, gpu: &Gpu) -> Option<String> {
        self.needs.iter().find_map(|needs| needs.lacking(gpu))
    }
}

impl Needs {
    /// Why a device does not give it.
    fn lacking(self, gpu: &Gpu) -> Option<String> {
        match self {
            Needs::Folder => cfg!(target_arch = "wasm32").then(|| "a browser has no folder for a checkpoint".into()),
            Needs::F16 => gpu.require_f16().err().map(|e| match e {
                Error::Device(message) | Error::Validation { message, .. } => message,
                other => other.to_string(),
            }),
            Needs::MatrixUnits if gpu.cooperative_matrix() => None,
            Needs::MatrixUnits if gpu.tier() != Tier::Gpu => Some("only the gpu kernels use matrix units".into()),
            Needs::MatrixUnits if gpu.adapter().matrix_block.is_some() => {
                Some("matrix units are used with --matrix-units".into())
            }
            Needs::MatrixUnits => Some(format!("{}: no matrix units of the needed form", gpu.adapter().name)),
        }
    }
}

/// Numbers below `bound`, spread without pattern.
pub(super) fn indices(count: usize, bound: usize, seed: usize) -> Array {
    Array::from_fn(&[count], |i| f64::from(((i + seed + 1) as u32).wrapping_mul(2_654_435_761) / 7 % bound as u32))
}
