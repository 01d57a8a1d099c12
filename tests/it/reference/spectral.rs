//! SD-MoE: `W_i = W_c + W_u,i`, with dense projectors `P_U = U U^T`, `P_V = V V^T` and full SVDs.

use sdmoe::nn::config::Realign;

use super::Array;
use super::svd::svd;
use super::tape::Mat;

/// One layer's decoupled matrix kind, as arrays.
#[derive(Clone, Debug, PartialEq)]
pub struct SpectralState {
    /// The common matrix *W_c*, `[m, n]`.
    pub w_c: Array,
    /// The unique matrices *W_u*, `[experts, m, n]`.
    pub w_u: Array,
    /// Left basis *U*, `[m, k]`.
    pub u: Array,
    /// Right basis *V*, `[n, k]`.
    pub v: Array,
}

/// How far the parameters are from the decoupled form.
#[derive(Clone, Debug, PartialEq)]
pub struct Drift {
    /// `|P_U W_u,i|_F / |W_u,i|_F` by expert. The left side is the model side of gate and up, the hidden side of down.
    pub left: Vec<f64>,
    /// `|W_u,i P_V|_F / |W_u,i|_F` by expert.
    pub right: Vec<f64>,
    /// Share of `|W_c|_F^2` beyond the leading k singular values.
    pub tail_energy: f64,
    /// `sigma_k / sigma_{k+1}` of `W_c`; infinite where the latter is zero or does not exist.
    pub gap: f64,
}

impl Drift {
    /// The largest of the experts' drifts on either side.
    pub fn worst(&self) -> f64 {
        self.left.iter().chain(&self.right).copied().fold(0.0, f64::max)
    }
}

/// A [`SpectralState`] as matrices.
#[derive(Clone, Debug)]
pub struct Decoupled {
    /// The common matrix *W_c*.
    pub w_c: Mat,
    /// The unique matrices *W_u*, by expert.
    pub w_u: Vec<Mat>,
    /// Left basis *U*.
    pub u: Mat,
    /// Right basis *V*.
    pub v: Mat,
}

fn leading(w: &Mat, k: usize) -> (Mat, Vec<f64>, Mat) {
    let (u, values, v) = svd(w);
    (u.columns(0, k).into_owned(), values, v.columns(0, k).into_owned())
}

impl Decoupled {
    /// From plain experts, leaving the function as it is: `W_c` = rank-k truncated SVD of their mean, `W_u,i = W_i - W_c`.
    /// Such a `W_u,i` is *not* in the double complement; the first refresh with a realignment puts it there.
    pub fn from_experts(experts: &[Mat], k: usize) -> Self {
        let mean = experts.iter().sum::<Mat>() / experts.len() as f64;
        let (u, values, v) = leading(&mean, k);
        let w_c = &u * Mat::from_diagonal(&values[..k].to_vec().into()) * v.transpose();
        let w_u = experts.iter().map(|w| w - &w_c).collect();
        Self { w_c, w_u, u, v }
    }

    /// From arrays.
    pub fn from_state(s: &SpectralState) -> Self {
        let one = |a: &Array| a.matrices().remove(0);
        Self { w_c: one(&s.w_c), w_u: s.w_u.matrices(), u: one(&s.u), v: one(&s.v) }
    }

    /// As arrays.
    pub fn to_state(&self) -> SpectralState {
        let one = Array::from_matrix;
        SpectralState { w_c: one(&self.w_c), w_u: Array::from_stack(&self.w_u), u: one(&self.u), v: one(&self.v) }
    }

    /// The rank k of the bases.
    pub fn rank(&self) -> usize {
        self.u.ncols()
    }

    /// What the forward pass sees: `W_c + W_u,i`.
    pub fn merged(&self) -> Vec<Mat> {
        self.w_u.iter().map(|w| &self.w_c + w).collect()
    }

    /// The unique part `(I - P_U) X (I - P_V)`.
    pub fn unique(&self, x: &Mat) -> Mat {
        let (m, n) = x.shape();
        let (pu, pv) = (&self.u * self.u.transpose(), &self.v * self.v.transpose());
        (Mat::identity(m, m) - pu) * x * (Mat::identity(n, n) - pv)
    }

    /// The common part `P_U X + (I - P_U) X P_V`.
    pub fn common(&self, x: &Mat) -> Mat {
        let m = x.nrows();
        let (pu, pv) = (&self.u * self.u.transpose(), &self.v * self.v.transpose());
        &pu * x + (Mat::identity(m, m) - &pu) * x * pv
    }

    /// Recomputes U, V from `W_c` and treats what the turned basis uncovers in `W_u,i` as `realign` says.
    pub fn refresh(&mut self, realign: Realign) {
        (self.u, _, self.v) = leading(&self.w_c, self.rank());
        if realign == Realign::None {
            return;
        }
        let kept: Vec<Mat> = self.w_u.iter().map(|w| self.unique(w)).collect();
        if realign == Realign::Absorb {
            let removed: Mat = self.w_u.iter().zip(&kept).map(|(w, k)| w - k).sum();
            self.w_c += removed / self.w_u.len() as f64;
        }
        self.w_u = kept;
    }

    /// The drift metrics.
    pub fn drift(&self) -> Drift {
        let ratio = |part: Mat, whole: &Mat| if whole.norm() > 0.0 { part.norm() / whole.norm() } else { 0.0 };
        let (pu, pv) = (&self.u * self.u.transpose(), &self.v * self.v.transpose());
        let (_, values, _) = svd(&self.w_c);
        let energy = |s: &[f64]| s.iter().map(|x| x * x).sum::<f64>();
        let (k, all) = (self.rank(), energy(&values));
        Drift {
            left: self.w_u.iter().map(|w| ratio(&pu * w, w)).collect(),
            right: self.w_u.iter().map(|w| ratio(w * &pv, w)).collect(),
            tail_energy: if all > 0.0 { energy(&values[k..]) / all } else { 0.0 },
            gap: values.get(k).map_or(f64::INFINITY, |next| values[k - 1] / next),
        }
    }
}
