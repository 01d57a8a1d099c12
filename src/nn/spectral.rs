//! The state of spectral decoupling (SD-MoE, METHOD §3): for each layer and covered matrix kind `W_i = W_c + W_u,i`.
//!
//! The model's forward reads the merged `W_i`, its own parameter; beside it live `W_c`, common to the experts, the bases U
//! and V of the k leading singular directions of `W_c`, and AdamW's moments of both parts. `W_u,i` of expert i is what is left,
//! `W_i - W_c`, and is nowhere stored ([`SpectralStack::unique`]).
//! All layers and experts of a kind lie in stacks, so that one launch treats them together. What moves the state is
//! `optim::spectral`; the kernels are `kernels::spectral`.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::kernels::gemm::{Trans, gemm};
use crate::kernels::spectral::{Basis, initial_common, sizes, square_norms, sum_experts};
use crate::kernels::spectral_shared::add_shared;
use crate::kernels::spectral_update::{Move, apply};
use crate::kernels::token_space::TokenSpace;
use crate::linalg::qr::orthonormalize;
use crate::linalg::random::fill_normal;
use crate::linalg::svd::{Draw, SvdOptions, randomized_svd};
use crate::nn::config::{ExpertMatrix, GradientForm, SpectralConfig};
use crate::nn::params::{Group, ParamSet};
use crate::tensor::{DType, Tensor};

/// The name in errors.
const OP: &str = "spectral decoupling";

/// Where the parts come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpectralInit {
    /// From freshly drawn weights Z: `W_u,i = (I - P_U) Z_i (I - P_V)` for random bases and `W_c = U S V^T` with the mean of
    /// the energies that the projection takes, S graded from 1.25 to 0.75. Rewrites the weights.
    Fresh,
    /// From a plain model: `W_c` = the experts' mean, cut to rank k, and `W_u,i = W_i - W_c`. Leaves the weights as they
    /// are.
    FromWeights,
    /// Left zero, to be filled from a checkpoint through `Optimizer::state`; `Optimizer::restored` follows.
    Restored,
}

/// The decoupled matrices of one kind in all layers.
#[derive(Debug)]
pub struct SpectralBank {
    /// Gate, up or down.
    pub matrix: ExpertMatrix,
    /// All layers in one stack, or one stack a layer where the sizes would leave later layers misaligned.
    pub stacks: Vec<SpectralStack>,
    /// Direct or token-space, never auto.
    pub form: GradientForm,
}

/// Decoupled matrices of some layers.
#[derive(Debug)]
pub struct SpectralStack {
    /// The layers.
    pub layers: Range<usize>,
    /// The merged weights *W*, the model's own buffer, `[layers, E, m, n]`.
    pub w: Tensor,
    /// Their gradient, the model's own buffer, `[layers, E, m, n]`.
    pub gradient: Tensor,
    /// The common matrices *W_c*, `[layers, 1, m, n]`.
    pub w_c: Tensor,
    /// The bases *U*, *V*.
    pub basis: Basis,
    /// First and second moment of `w_c`.
    pub moments_c: (Tensor, Tensor),
    /// First and second moment of the unique matrices *W_u*.
    pub moments_u: (Tensor, Tensor),
    /// Token-space sums, replaced and added to as the gradient is: `(X U)^T dY: [layers, 1, k, n]` and `(I - P_U) X^T dY V: [layers, 1, m, k]`.
    pub sums: (Tensor, Tensor),
    /// What the last refresh measured; see `optim::spectral_metrics`.
    pub record: RefreshRecord,
}

/// What a refresh measures before it turns the basis; zeros until the first one.
#[derive(Clone, Debug)]
pub struct RefreshRecord {
    /// Squared norms of `U^T W_u,i`, `W_u,i V` and `W_u,i`, `[3, layers, E]`, in the old basis.
    pub drift: Tensor,
    /// Squared norms of each expert's gradient and of its common part, `[2, layers, E]`; zero in the token-space form.
    pub share: Tensor,
    /// Squared norm of `W_c`, `[layers]`.
    pub energy: Tensor,
    /// Leading singular values of `W_c`, `[layers, l]`, l >= k.
    pub singular: Tensor,
    /// Principal angles of old and new U, and of old and new V, rising, `[2, layers, k]`.
    pub angles: Tensor,
}

/// The form of the gradient split for matrices `m x n` that see `tokens` routed tokens per expert and optimizer step:
/// direct from `1.33 m n / (m + n)` on (METHOD §4).
pub fn gradient_form(wanted: GradientForm, m: usize, n: usize, tokens: f64) -> GradientForm {
    match wanted {
        GradientForm::Auto if tokens >= 1.33 * (m * n) as f64 / (m + n) as f64 => GradientForm::Direct,
        GradientForm::Auto => GradientForm::TokenSpace,
        fixed => fixed,
    }
}

impl SpectralBank {
    /// The banks that `config` asks for, in the order gate, up, down; none when it is off or of rank 0.
    ///
    /// # Errors
    /// [`Error::Config`] when the rank exceeds a matrix's sizes; [`Error::Device`].
    pub fn all(params: &ParamSet, config: &SpectralConfig, seed: u64, init: SpectralInit) -> Result<Vec<Self>> {
        let mut banks = Vec::new();
        for matrix in ExpertMatrix::ALL.into_iter().filter(|&m| config.covers(m)) {
            let Some(group) = params.group(Group::Experts(matrix)) else { continue };
            let mut stacks = Vec::new();
            let mut layer = 0;
            for (w, gradient) in &group.stacks {
                let [count, _, m, n] = sizes(OP, w)?;
                let k = config.rank;
                if k > m.min(n) {
                    let message = format!("expected at most min(m, n) = {}, got {k}", m.min(n));
                    return Err(Error::config("spectral.rank", message));
                }
                let align = (w.gpu().offset_alignment() / 4) as usize;
                let together = [m * n, m * k, n * k, k * k].iter().all(|size| size.is_multiple_of(align));
                let step = if together { count } else { 1 };
                for start in (0..count).step_by(step) {
                    let view = |x: &Tensor| x.slice(start..start + step);
                    let layers = layer + start..layer + start + step;
                    let stack = SpectralStack::zeroed(layers, view(w)?, view(gradient)?, config)?;
                    // Distinct streams for U and V of each kind; the layers are further streams.
                    stack.fill(config, seed ^ ((matrix as u64 + 1) << 56), init)?;
                    stacks.push(stack);
                }
                layer += count;
            }
            let form = if config.gradient_form == GradientForm::TokenSpace {
                GradientForm::TokenSpace
            } else {
                GradientForm::Direct
            };
            banks.push(Self { matrix, stacks, form });
        }
        Ok(banks)
    }

    /// What the backward pass of layer `layer` needs where this bank uses the token-space form.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn token_space(&self, layer: usize) -> Result<Option<TokenSpace>> {
        if self.form != GradientForm::TokenSpace {
            return Ok(None);
        }
        let Some(stack) = self.stacks.iter().find(|s| s.layers.contains(&layer)) else { return Ok(None) };
        let [_, _, m, n] = sizes(OP, &stack.w)?;
        let (k, i) = (stack.basis.rank(), layer - stack.layers.start);
        let of = |x: &Tensor, rows: usize, columns: usize| x.slice(i..i + 1)?.reshape([rows, columns]);
        Ok(Some(TokenSpace {
            u: of(&stack.basis.u, m, k)?,
            v: of(&stack.basis.v, n, k)?,
            a: of(&stack.sums.0, k, n)?,
            b: of(&stack.sums.1, m, k)?,
        }))
    }
}

/// A `clip` tensor that lets everything through, for moves that are no optimizer step.
pub(crate) fn no_clip(gpu: &Gpu) -> Result<Tensor> {
    Tensor::from_f32(gpu, [4], &[0.0, 1.0, 0.0, 0.0])
}

impl SpectralStack {
    fn zeroed(layers: Range<usize>, w: Tensor, gradient: Tensor, config: &SpectralConfig) -> Result<Self> {
        let [l, e, m, n] = sizes(OP, &w)?;
        let (k, gpu) = (config.rank, w.gpu().clone());
        let new = |shape: &[usize]| Tensor::persistent(&gpu, shape, DType::F32);
        let found = singular_values(m, n, config);
        Ok(Self {
            layers,
            w_c: new(&[l, 1, m, n])?,
            basis: Basis { u: new(&[l, m, k])?, v: new(&[l, n, k])?, vt: new(&[l, k, n])? },
            moments_c: (new(&[l, 1, m, n])?, new(&[l, 1, m, n])?),
            moments_u: (new(&[l, e, m, n])?, new(&[l, e, m, n])?),
            sums: (new(&[l, 1, k, n])?, new(&[l, 1, m, k])?),
            record: RefreshRecord {
                drift: new(&[3, l, e])?,
                share: new(&[2, l, e])?,
                energy: new(&[l])?,
                singular: new(&[l, found])?,
                angles: new(&[2, l, k])?,
            },
            w,
            gradient,
        })
    }

    fn fill(&self, config: &SpectralConfig, seed: u64, init: SpectralInit) -> Result<()> {
        match init {
            SpectralInit::Fresh => self.fresh(seed),
            SpectralInit::FromWeights => self.take_weights(config, seed),
            SpectralInit::Restored => Ok(()),
        }
    }

    fn fresh(&self, seed: u64) -> Result<()> {
        let (k, gpu) = (self.basis.rank(), self.w.gpu());
        for (side, basis) in [(0, &self.basis.u), (1, &self.basis.v)] {
            for (i, layer) in self.layers.clone().enumerate() {
                let normal = Tensor::empty_f32(gpu, [1, basis.dims()[1], k])?;
                fill_normal(&normal, seed, 2 * layer as u32 + side, 1.0)?;
                basis.slice(i..i + 1)?.copy_from(&orthonormalize(&normal)?)?;
            }
        }
        self.basis.update_transpose()?;
        // W holds Z, then W_u, then both parts.
        let factors = self.basis.factors(&self.basis.skinny(&self.w)?)?;
        let full = square_norms(&self.w, 0)?;
        apply(&self.w, Move::common(-1.0, &factors), &self.basis, &no_clip(gpu)?)?;
        initial_common(&self.basis, &full, &square_norms(&self.w, 0)?, &self.matrices_c()?)?;
        if self.all_common()? {
            // All but the rounding.
            self.w.clear()?;
        }
        add_shared(None, 1.0, 1.0, &self.w_c, &self.w)
    }

    fn take_weights(&self, config: &SpectralConfig, seed: u64) -> Result<()> {
        let [l, experts, m, n] = sizes(OP, &self.w)?;
        let (k, gpu) = (self.basis.rank(), self.w.gpu());
        let mean = sum_experts(&self.w, 1.0 / experts as f32)?.reshape([l, m, n])?;
        let svd = randomized_svd(&mean, k, svd_options(config, seed, 0, false), None)?;
        self.basis.u.copy_from(&svd.u)?;
        self.basis.v.copy_from(&svd.v)?;
        self.basis.update_transpose()?;
        // W_c = U (U^T mean V) V^T
        let a = Tensor::empty_f32(gpu, [l, k, n])?;
        let inner = Tensor::empty_f32(gpu, [l, k, k])?;
        gemm(Trans::T, Trans::N, 1.0, &self.basis.u, &mean, 0.0, &a)?;
        gemm(Trans::N, Trans::N, 1.0, &a, &self.basis.v, 0.0, &inner)?;
        gemm(Trans::N, Trans::N, 1.0, &inner, &self.basis.vt, 0.0, &a)?;
        gemm(Trans::N, Trans::N, 1.0, &self.basis.u, &a, 0.0, &self.matrices_c()?)
    }

    /// Records the unique matrices `W_u,i = W_i - W_c` into `target: [layers, E, m, n]`.
    ///
    /// # Errors
    /// [`Error::Shape`] when `target` has another shape; [`Error::Device`].
    pub fn unique_into(&self, target: &Tensor) -> Result<()> {
        if target.dims() != self.w.dims() {
            return Err(Error::shape(OP, format!("{:?}", self.w), format!("{target:?}")));
        }
        add_shared(Some(&self.w), 1.0, -1.0, &self.w_c, target)
    }

    /// The unique matrices `W_u,i = W_i - W_c`, `[layers, E, m, n]`, in a buffer of their own.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn unique(&self) -> Result<Tensor> {
        let unique = Tensor::empty_f32(self.w.gpu(), self.w.shape())?;
        self.unique_into(&unique)?;
        Ok(unique)
    }

    /// `w_c` as `[layers, m, n]`.
    pub(crate) fn matrices_c(&self) -> Result<Tensor> {
        let [l, _, m, n] = sizes(OP, &self.w_c)?;
        self.w_c.reshape([l, m, n])
    }

    /// Whether the bases span a whole side, k = min(m, n): no unique part is left.
    pub(crate) fn all_common(&self) -> Result<bool> {
        let [_, _, m, n] = sizes(OP, &self.w)?;
        Ok(self.basis.rank() == m.min(n))
    }

    /// Number of matrices' experts *E*.
    pub fn experts(&self) -> usize {
        self.w.dims()[1]
    }

    /// Brings what is derived in line with parts that were written from outside.
    pub(crate) fn restored(&self) -> Result<()> {
        self.basis.update_transpose()
    }

    /// Everything that a checkpoint needs besides the merged weights, layer by layer, so that names and shapes do not
    /// depend on the adapter: `{layer}.w_c`, `.u`, `.v`, the moments `.w_c.m` ..., and the last refresh's record.
    pub(crate) fn state(&self, prefix: &str) -> Result<Vec<(String, Tensor)>> {
        let mut state = Vec::new();
        for (i, layer) in self.layers.clone().enumerate() {
            for (name, x) in [
                ("w_c", &self.w_c),
                ("u", &self.basis.u),
                ("v", &self.basis.v),
                ("w_c.m", &self.moments_c.0),
                ("w_c.v", &self.moments_c.1),
                ("w_u.m", &self.moments_u.0),
                ("w_u.v", &self.moments_u.1),
                ("refresh.energy", &self.record.energy),
                ("refresh.singular", &self.record.singular),
            ] {
                let part = x.slice(i..i + 1)?;
                let shape = if x.dims().len() > 1 { x.dims()[1..].to_vec() } else { vec![1] };
                let shape = if shape[0] == 1 && shape.len() > 1 { shape[1..].to_vec() } else { shape };
                state.push((format!("{prefix}.{layer}.{name}"), part.reshape(&shape)?));
            }
            for (name, x) in [
                ("refresh.drift", &self.record.drift),
                ("refresh.share", &self.record.share),
                ("refresh.angles", &self.record.angles),
            ] {
                for j in 0..x.dims()[0] {
                    let part = x.slice(j..j + 1)?.reshape([x.dims()[1], x.dims()[2]])?.slice(i..i + 1)?;
                    state.push((format!("{prefix}.{layer}.{name}.{j}"), part.reshape([x.dims()[2]])?));
                }
            }
        }
        Ok(state)
    }
}

/// How many singular values a refresh finds, as `linalg::svd` decides it.
fn singular_values(m: usize, n: usize, config: &SpectralConfig) -> usize {
    let limit = crate::linalg::MAX_COLUMNS;
    if m.min(n) <= limit { m.min(n) } else { (config.rank + config.oversampling).min(limit) }
}

/// The randomized SVD's settings at `step`, from an earlier V if `warm`; each step's sketch is new, and the same after a resume.
pub(crate) fn svd_options(config: &SpectralConfig, seed: u64, step: u64, warm: bool) -> SvdOptions {
    SvdOptions {
        oversampling: config.oversampling,
        power_iterations: config.power_iterations.saturating_sub(usize::from(warm)),
        seed: seed ^ step.wrapping_mul(0x9E37_79B9_7F4A_7C15),
        draw: Draw::Shared,
    }
}
