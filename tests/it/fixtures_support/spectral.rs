//! Group `sdmoe/`: `matrix.*` (the split, a step, a refresh), `init`, and `step_*` (a SwiGLU block in training).
//!
//! Bases are compared by their projectors. Dimension 0 of a stored matrix pairs with U whatever the orientation, as in the
//! library, so the weights of `step_*`, stored `[out, in]`, need no transposing.

use std::ops::Range;

use super::Case;
use pollster::block_on;
use sdmoe::autograd::Array;
use sdmoe::gpu::Gpu;
use sdmoe::linalg::{qr, svd};
use sdmoe::low_level::kernels::elementwise::axpby;
use sdmoe::low_level::kernels::grouped::{Groups, NONE, grouped_weight_gradient, tile_rows};
use sdmoe::low_level::kernels::spectral::{Basis, Factors, Skinny};
use sdmoe::low_level::kernels::spectral_update::{Move, apply};
use sdmoe::low_level::kernels::token_space::TokenSpace;
use sdmoe::nn::config::{ExpertMatrix, SpectralConfig};
use sdmoe::nn::params::{Group, Init, ParamBuilder};
use sdmoe::optim::{Optimizer, OptimizerConfig, SpectralInit, SpectralSetup};
use sdmoe::tensor::Tensor;

/// Products over up to a hundred f32-rounded elements.
const ROUNDING: f64 = 3e-6;
/// AdamW divides by the root of a moment, so a rounding error of a small gradient becomes one of the step.
const TRAJECTORY: f64 = 1e-3;

pub fn run(gpu: &Gpu, case: &Case) -> Result<(), String> {
    match case.name.split('.').next() {
        Some("matrix") => matrix(gpu, case),
        Some("init") => init(gpu, case),
        Some("step_sgd" | "step_adamw") => training(gpu, case),
        _ => Err("neither matrix.*, init nor step_*".into()),
    }
}

fn text(e: sdmoe::Error) -> String {
    e.to_string()
}

fn upload(gpu: &Gpu, x: &Array, shape: &[usize]) -> Result<Tensor, String> {
    Tensor::from_f32(gpu, shape, &x.to_f32()).map_err(text)
}

fn download(x: &Tensor) -> Result<Array, String> {
    Ok(Array::from_f32(x.dims(), &block_on(x.to_f32()).map_err(text)?))
}

/// Compares relative to the largest element wanted.
fn close(what: &str, got: &Array, want: &Array, tolerance: f64) -> Result<(), String> {
    if got.data.len() != want.data.len() {
        return Err(format!("{what}: {:?}, expected {:?}", got.shape, want.shape));
    }
    let worst = got.data.iter().zip(&want.data).map(|(g, w)| (g - w).abs()).fold(0.0, f64::max);
    let allowed = tolerance * want.max_abs() + 1e-12;
    if worst <= allowed { Ok(()) } else { Err(format!("{what}: off by {worst:.3e}, allowed {allowed:.3e}")) }
}

fn projector(u: &Array) -> Array {
    u.matmul(&u.transpose())
}

/// Decoupled matrices of one layer, with an optimizer that starts from given parts.
struct Parts {
    optimizer: Optimizer,
}

impl Parts {
    fn new(gpu: &Gpu, w: [&Array; 4], adam: &OptimizerConfig, refresh_every: u64) -> Result<Self, String> {
        let [w_c, w_u, u, v] = w;
        let (e, m, n, k) = (w_u.shape[0], w_c.rows(), w_c.cols(), u.cols());
        let mut builder = ParamBuilder::default();
        let id = builder.add("gate", Group::Experts(ExpertMatrix::Gate), &[e, m, n], Init::Zeros);
        let set = builder.build(gpu).map_err(text)?;
        let merged = Array::from_fn(&[e, m, n], |i| w_u.data[i] + w_c.data[i % (m * n)]);
        set.get(id).value.write_f32(&merged.to_f32()).map_err(text)?;
        let config = with!(SpectralConfig { rank: k, refresh_every, as_published: true, ..SpectralConfig::default() });
        let init = SpectralInit::Restored;
        let setup = SpectralSetup { config: &config, init, seed: 1, tokens_per_expert: f64::INFINITY };
        let mut optimizer = Optimizer::new(gpu, &set, adam, setup).map_err(text)?;
        let given = [("spectral.gate.0.w_c", w_c), ("spectral.gate.0.u", u), ("spectral.gate.0.v", v)];
        let value = |name: &str| given.iter().find(|(n, _)| *n == name).map(|(_, x)| x.to_f32());
        optimizer.restore(|name, _| Ok(value(name))).map_err(text)?;
        Ok(Self { optimizer })
    }

    fn stack(&self) -> &sdmoe::optim::spectral::SpectralStack {
        &self.optimizer.banks()[0].stacks[0]
    }

    fn unique(&self) -> Result<Tensor, String> {
        self.stack().unique().map_err(text)
    }

    fn merged(&self) -> Result<Array, String> {
        download(&self.stack().w)
    }

    fn check(&self, case: &Case, prefix: &str, tolerance: f64) -> Result<(), String> {
        for (name, x) in [("W_c", self.stack().w_c.clone()), ("W_u", self.unique()?)] {
            let name = format!("{prefix}.{name}");
            close(&name, &download(&x)?, case.tensor(&name)?, tolerance)?;
        }
        Ok(())
    }
}

fn basis(gpu: &Gpu, u: &Array, v: &Array) -> Result<Basis, String> {
    let (m, n, k) = (u.rows(), v.rows(), u.cols());
    let basis = Basis {
        u: upload(gpu, u, &[1, m, k])?,
        v: upload(gpu, v, &[1, n, k])?,
        vt: Tensor::empty_f32(gpu, [1, k, n]).map_err(text)?,
    };
    basis.update_transpose().map_err(text)?;
    Ok(basis)
}

/// `full x + common C` on top of `target`.
fn mixed(target: &Tensor, basis: &Basis, factor: f32, factors: &Factors) -> Result<Array, String> {
    let pass = Tensor::from_f32(target.gpu(), [4], &[0.0, 1.0, 0.0, 0.0]).map_err(text)?;
    apply(target, Move::common(factor, factors), basis, &pass).map_err(text)?;
    download(target)
}

fn matrix(gpu: &Gpu, case: &Case) -> Result<(), String> {
    let (w_c, w_u, g) = (case.tensor("W_c")?, case.tensor("W_u")?, case.tensor("G")?);
    let (e, m, n) = (w_u.shape[0], w_c.rows(), w_c.cols());
    let lr = case.need(&["lr"])?;
    let (Some(u), Some(v)) = (case.tensors.get("U"), case.tensors.get("V")) else {
        // Rank 0: nothing is decoupled, the gradient is all unique, and a step is a plain one.
        let w = upload(gpu, &Array::from_fn(&[e, m, n], |i| w_u.data[i] + w_c.data[i % (m * n)]), &[e, m, n])?;
        axpby(-lr as f32, &upload(gpu, g, &[e, m, n])?, 1.0, &w).map_err(text)?;
        return close("W_sgd_full", &download(&w)?, case.tensor("W_sgd_full")?, ROUNDING);
    };
    let basis_given = basis(gpu, u, v)?;
    let shape = [1, e, m, n];
    let gradient = upload(gpu, g, &shape)?;
    let skinny = basis_given.skinny(&gradient).map_err(text)?;
    // Experts without tokens have zero products: compare with the scale of all.
    close("UtG", &download(&skinny.a)?, case.tensor("UtG")?, ROUNDING)?;
    close("GV", &download(&skinny.b)?, case.tensor("GV")?, ROUNDING)?;
    let factors = basis_given.factors(&skinny).map_err(text)?;
    let sum = basis_given.factors(&skinny.sum().map_err(text)?).map_err(text)?;
    let zeros = |e: usize| Tensor::zeros(gpu, [1, e, m, n]).map_err(text);
    // What is removed can be all of it, as with k = min(m, n): relative to G.
    let relative = |want: &Array| ROUNDING * g.max_abs() / want.max_abs().max(1e-30);
    let want = case.tensor("G_u")?;
    close("G_u", &mixed(&gradient.duplicate().map_err(text)?, &basis_given, -1.0, &factors)?, want, relative(want))?;
    close("G_c_i", &mixed(&zeros(e)?, &basis_given, 1.0, &factors)?, case.tensor("G_c_i")?, ROUNDING)?;
    close("G_c", &mixed(&zeros(1)?, &basis_given, 1.0, &sum)?, case.tensor("G_c")?, ROUNDING)?;
    token_space(gpu, case, &basis_given, &shape)?;

    // One step of gradient descent, clipping off: AdamW whose eps drowns the moments.
    let mut parts = Parts::new(gpu, [w_c, w_u, u, v], &descent(), 100)?;
    parts.stack().gradient.write_f32(&g.to_f32()).map_err(text)?;
    parts.optimizer.step(1, lr as f32 * descent().eps).map_err(text)?;
    close("W_c_sgd", &download(&parts.stack().w_c)?, case.tensor("W_c_sgd")?, ROUNDING)?;
    // With k = min(m, n) nothing is left of W_u and its gradient: relative to W_c.
    let want = case.tensor("W_u_sgd")?;
    let relative = ROUNDING * (w_c.max_abs() / want.max_abs().max(1e-30)).max(1.0);
    close("W_u_sgd", &download(&parts.unique()?)?, want, relative)?;

    // The refresh after it, with the unique parts projected again.
    let config = with!(SpectralConfig {
        rank: u.cols(),
        realign: sdmoe::nn::config::Realign::Project,
        power_iterations: 8,
        ..SpectralConfig::default()
    });
    let pass = Tensor::from_f32(gpu, [4], &[0.0, 1.0, 0.0, 0.0]).map_err(text)?;
    parts.stack().refresh(&config, 1, 1, &pass).map_err(text)?;
    let s = &case.tensor("refresh_S")?.data;
    // A projector turns by the rounding of W_c over the gap.
    let gap = s[u.cols() - 1] - s.get(u.cols()).copied().unwrap_or(0.0);
    let turned = ROUNDING * (1.0 + 2.0 * s[0] / gap);
    let state = parts.stack();
    for (what, got, want) in [("P_U", &state.basis.u, "refresh_U"), ("P_V", &state.basis.v, "refresh_V")] {
        close(what, &projector(&download(got)?.matrix(0)), &projector(case.tensor(want)?), turned)?;
    }
    let want = case.tensor("refresh_W_u_reprojected")?;
    let scale = w_u.max_abs() / want.max_abs().max(1e-30);
    close("refresh_W_u_reprojected", &download(&parts.unique()?)?, want, 10.0 * turned * scale.max(1.0))
}

/// Gradient descent in AdamW's clothes: `g / (|g| + eps)` is `g / eps` to 6e-8 |g|.
fn descent() -> OptimizerConfig {
    let eps = (1 << 24) as f32;
    with!(OptimizerConfig { beta1: 0.0, beta2: 0.0, eps, weight_decay: 0.0, clip: 0.0, ..OptimizerConfig::default() })
}

fn token_space(gpu: &Gpu, case: &Case, basis: &Basis, shape: &[usize; 4]) -> Result<(), String> {
    let [_, e, m, n] = *shape;
    let k = basis.rank();
    let tile = tile_rows(gpu);
    let (mut x, mut dy, mut offsets, mut tiles, mut counts) = (vec![], vec![], vec![0u32], vec![], vec![]);
    for i in 0..e {
        // Absent where the expert has no tokens.
        let rows = case.tensors.get(&format!("X.{i}")).map_or(0, Array::rows);
        if rows > 0 {
            x.extend(case.tensor(&format!("X.{i}"))?.to_f32());
            dy.extend(case.tensor(&format!("dY.{i}"))?.to_f32());
        }
        let end = offsets[i] as usize + rows.next_multiple_of(tile);
        x.resize(end * m, 0.0);
        dy.resize(end * n, 0.0);
        tiles.resize(end / tile, i as u32);
        offsets.push(end as u32);
        counts.push(rows as u32);
    }
    // A tile beyond the last expert, with anything in it.
    let capacity = offsets[e] as usize + tile;
    x.resize(capacity * m, f32::NAN);
    dy.resize(capacity * n, f32::NAN);
    tiles.push(NONE);
    let index = |x: &[u32]| Tensor::from_u32(gpu, [x.len()], x).map_err(text);
    let groups = Groups {
        experts: e,
        rows: counts.iter().sum::<u32>() as usize,
        tile_rows: tile,
        capacity,
        tile_expert: index(&tiles)?,
        offsets: index(&offsets)?,
        counts: index(&counts)?,
    };
    let space = TokenSpace {
        u: basis.u.reshape([m, k]).map_err(text)?,
        v: basis.v.reshape([n, k]).map_err(text)?,
        a: upload(gpu, &Array::zeros(&[k, n]).map(|_| f64::NAN), &[k, n])?,
        b: upload(gpu, &Array::zeros(&[m, k]).map(|_| f64::NAN), &[m, k])?,
    };
    let x = Tensor::from_f32(gpu, [capacity, m], &x).map_err(text)?;
    let dy = Tensor::from_f32(gpu, [capacity, n], &dy).map_err(text)?;
    let (x, dy) = space.project(&x, &dy, &groups, 0.0).map_err(text)?;
    let unique = Tensor::empty_f32(gpu, [e, m, n]).map_err(text)?;
    grouped_weight_gradient(&x, &dy, &groups, 0.0, &unique).map_err(text)?;
    let want = case.tensor("G_u")?;
    let relative = ROUNDING * case.tensor("G")?.max_abs() / want.max_abs().max(1e-30);
    close("G_u (token space)", &download(&unique)?, want, relative)?;
    let sums =
        Skinny { a: space.a.reshape([1, 1, k, n]).map_err(text)?, b: space.b.reshape([1, 1, m, k]).map_err(text)? };
    let factors = basis.factors_of_complement(&sums).map_err(text)?;
    let zeros = Tensor::zeros(gpu, [1, 1, m, n]).map_err(text)?;
    close("G_c (token space)", &mixed(&zeros, basis, 1.0, &factors)?, case.tensor("G_c")?, ROUNDING)
}

fn init(gpu: &Gpu, case: &Case) -> Result<(), String> {
    let (noise, scale) = (case.tensor("N")?, case.need(&["scale"])?);
    let [e, m, n] = noise.shape[..] else { return Err(format!("N: {:?}", noise.shape)) };
    let z = noise.map(|x| x * scale);
    let mut bases = Vec::new();
    for (gaussian, want) in [("A_U", "U0"), ("A_V", "V0")] {
        let a = case.tensor(gaussian)?;
        let q = qr::orthonormalize(&upload(gpu, a, &a.shape)?).map_err(text)?;
        let q = download(&q)?;
        close(want, &projector(&q), &projector(case.tensor(want)?), ROUNDING)?;
        bases.push(q);
    }
    let given = [case.tensor("B_U")?, case.tensor("B_V")?];
    for ([u, v], want) in [([&bases[0], &bases[1]], "W_u"), (given, "B_W_u")] {
        let basis = basis(gpu, u, v)?;
        let z = upload(gpu, &z, &[1, e, m, n])?;
        let factors = basis.factors(&basis.skinny(&z).map_err(text)?).map_err(text)?;
        close(want, &mixed(&z, &basis, -1.0, &factors)?, case.tensor(want)?, ROUNDING)?;
    }
    let w_c = upload(gpu, case.tensor("B_W_c")?, &[1, m, n])?;
    let options = with!(svd::SvdOptions { power_iterations: 8, ..svd::SvdOptions::default() });
    let found = svd::randomized_svd(&w_c, case.need(&["k"])? as usize, options, None).map_err(text)?;
    let (u, v) = (download(&found.u)?.matrix(0), download(&found.v)?.matrix(0));
    let s = &case.tensor("B_S")?.data;
    let k = u.cols();
    let low_rank = projector(&u).matmul(case.tensor("B_W_c")?).matmul(&projector(&v));
    close("C_W_c", &low_rank, case.tensor("C_W_c")?, ROUNDING * (1.0 + 2.0 * s[0] / (s[k - 1] - s[k])))
}

/// The SwiGLU block of `step_*`, in f64 on the host: loss and gradients of gate, up, down.
fn block(case: &Case, w: [&Array; 3]) -> Result<(f64, [Array; 3]), String> {
    let (x, target, index, weight) =
        (case.tensor("x")?, case.tensor("target")?, case.tensor("topk_index")?, case.tensor("topk_weight")?);
    let (tokens, h) = (x.rows(), x.cols());
    let width = w[0].shape[w[0].shape.len() - 2];
    let mut gradients = w.map(|w| Array::zeros(&w.shape));
    let mut loss = 0.0;
    let rows = |w: &Array, expert: usize, size: usize| -> Range<usize> {
        let rows = w.shape[w.shape.len() - 2];
        debug_assert_eq!(w.cols(), size);
        expert * rows..(expert + 1) * rows
    };
    let product = |w: &Array, expert: usize, x: &[f64]| -> Vec<f64> {
        rows(w, expert, x.len()).map(|r| w.row(r).iter().zip(x).map(|(a, b)| a * b).sum()).collect()
    };
    for t in 0..tokens {
        let mut y = vec![0.0; h];
        let mut hidden = Vec::new();
        for (&expert, &p) in index.row(t).iter().zip(weight.row(t)) {
            let expert = expert as usize;
            let (g, u) = (product(w[0], expert, x.row(t)), product(w[1], expert, x.row(t)));
            let a: Vec<f64> = g.iter().zip(&u).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
            y.iter_mut().zip(product(w[2], expert, &a)).for_each(|(y, o)| *y += p * o);
            hidden.push((expert, p, g, u, a));
        }
        let difference: Vec<f64> = y.iter().zip(target.row(t)).map(|(y, t)| y - t).collect();
        loss += 0.5 * difference.iter().map(|d| d * d).sum::<f64>() / tokens as f64;
        for (expert, p, g, u, a) in hidden {
            let dy: Vec<f64> = difference.iter().map(|d| p * d / tokens as f64).collect();
            let mut da = vec![0.0; width];
            for (r, &dy) in rows(w[2], expert, width).zip(&dy) {
                for j in 0..width {
                    gradients[2].row_mut(r)[j] += dy * a[j];
                    da[j] += dy * w[2].row(r)[j];
                }
            }
            for (j, r) in rows(w[0], expert, h).enumerate() {
                let s = 1.0 / (1.0 + (-g[j]).exp());
                let dg = da[j] * u[j] * s * (1.0 + g[j] * (1.0 - s));
                let du = da[j] * g[j] * s;
                for (c, &x) in x.row(t).iter().enumerate() {
                    gradients[0].row_mut(r)[c] += dg * x;
                    gradients[1].row_mut(r)[c] += du * x;
                }
            }
        }
    }
    Ok((loss, gradients))
}

fn training(gpu: &Gpu, case: &Case) -> Result<(), String> {
    let names = ["gate_proj", "up_proj", "down_proj"];
    let lr = case.need(&["lr"])?;
    let (adam, lr) = if case.name == "step_sgd" {
        (descent(), lr * f64::from(descent().eps))
    } else {
        let betas = case.meta["betas"].as_array().ok_or("meta.betas: expected two numbers")?;
        let beta = |i: usize| betas.get(i).and_then(|b| b.as_f64()).ok_or("meta.betas: expected two numbers");
        let (beta1, beta2) = (beta(0)? as f32, beta(1)? as f32);
        let (eps, weight_decay) = (case.need(&["eps"])? as f32, case.need(&["weight_decay"])? as f32);
        (with!(OptimizerConfig { beta1, beta2, eps, weight_decay, clip: 0.0, ..OptimizerConfig::default() }), lr)
    };
    let refresh = case.need(&["refresh"])? as u64;
    let mut parts = Vec::new();
    for name in names {
        let of = |when: &str, what: &str| case.tensor(&format!("{when}.{name}.{what}"));
        let w = [of("init", "W_c")?, of("init", "W_u")?, of("step1", "U")?, of("step1", "V")?];
        parts.push(Parts::new(gpu, w, &adam, refresh)?);
    }
    let losses: Vec<f64> = case.meta["losses"]
        .as_array()
        .ok_or("meta.losses: expected numbers")?
        .iter()
        .filter_map(|l| l.as_f64())
        .collect();
    for (step, want) in (1..).zip(&losses) {
        let w = [parts[0].merged()?, parts[1].merged()?, parts[2].merged()?];
        let (loss, gradients) = block(case, [&w[0], &w[1], &w[2]])?;
        if (loss / want - 1.0).abs() > TRAJECTORY / 10.0 {
            return Err(format!("loss of step {step}: {loss}, expected {want}"));
        }
        for ((part, g), name) in parts.iter_mut().zip(&gradients).zip(names) {
            if step == 1 {
                close("G of step 1", g, case.tensor(&format!("step1.{name}.G"))?, ROUNDING)?;
            }
            part.stack().gradient.write_f32(&g.to_f32()).map_err(text)?;
            part.optimizer.step(step, lr as f32).map_err(text)?;
            if step == 1 {
                part.check(case, &format!("after1.{name}"), TRAJECTORY / 10.0)?;
            }
            if step == refresh {
                for (what, basis) in [("U", &part.stack().basis.u), ("V", &part.stack().basis.v)] {
                    let name = format!("refresh1.{name}.{what}");
                    close(&name, &projector(&download(basis)?.matrix(0)), &projector(case.tensor(&name)?), TRAJECTORY)?;
                }
            }
        }
    }
    for (part, name) in parts.iter().zip(names) {
        part.check(case, &format!("final.{name}"), TRAJECTORY)?;
    }
    Ok(())
}
