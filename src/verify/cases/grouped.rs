//! Products of rows grouped by expert, and the experts' weight gradients.

use super::routed::{HostGroups, groups};
use super::sizes;
use crate::autograd::Array;
use crate::error::Result;
use crate::gpu::Tier;
use crate::kernels::gemm::Trans::{N, T};
use crate::kernels::grouped::{grouped_gemm, grouped_gemm_onto, grouped_weight_gradient};
use crate::kernels::matrix_shapes::MATRIX_SHAPES;
use crate::kernels::shapes::SHAPES;
use crate::tensor::DType;
use crate::verify::Level::{Quick, Usual};
use crate::verify::context::{Case, Context, Findings, Guarded, Needs};

/// All of them: rows of each expert, m, n, tiles without expert.
pub(super) fn cases(tier: Tier) -> Vec<Case> {
    // The last are few, which kernels of their own take on GPUs.
    let counts: [&'static [usize]; 8] = [
        &[1],
        &[70],
        &[0, 5, 0, 33, 1],
        &[200, 0, 0],
        &[0, 0, 129],
        &[64, 64],
        &[17, 3, 40, 0, 0, 96, 2, 31],
        &[0, 5, 0, 19, 1, 4],
    ];
    let mut all = Vec::new();
    for (i, counts) in counts.into_iter().enumerate() {
        for (j, (m, n)) in [(1, 1), (5, 7), (8, 4), (36, 20), (45, 56), (40, 65), (36, 56)].into_iter().enumerate() {
            // Each once aligned and once not.
            let level = if (i == 2 && j == 3) || (i == 6 && j == 1) || (i == 7 && j == 3) { Quick } else { Usual };
            for spare in [0, 2] {
                let name = format!("grouped/products/{} rows, {}, spare {spare}", sizes(counts), sizes(&[m, n]));
                let level = if spare == 0 && level == Quick { Usual } else { level };
                let case = Case::new(level, name, async move |context| {
                    verify(context, counts, spare, [m, n], DType::F32).await
                });
                all.push(case);
            }
        }
    }
    // Beyond the rows of which one expert's gradient is computed at once on GPUs.
    for (i, (m, n)) in [(36, 20), (5, 7)].into_iter().enumerate() {
        let level = if i == 0 && tier == Tier::Gpu { Quick } else { Usual };
        let name = format!("grouped/chunks/700, 3, 0, 600 rows, {}", sizes(&[m, n]));
        all.push(Case::new(level, name, async move |context| {
            verify(context, &[700, 3, 0, 600], 2, [m, n], DType::F32).await
        }));
    }
    // In every shape of GPUs' tiles, those that suit tiles of experts; the others choose for themselves.
    if tier == Tier::Gpu {
        for (i, shape) in SHAPES.iter().enumerate() {
            for (m, n) in [(36, 20), (45, 56), (5, 7)] {
                let name = format!("grouped/tiles/{shape}, {}", sizes(&[m, n]));
                all.push(Case::new(Usual, name, async move |context| {
                    let _forced = context.gpu.forced(i, 1);
                    verify(context, &[17, 3, 140, 0, 96, 2], 2, [m, n], DType::F32).await
                }));
            }
        }
        // The gradients in every shape on matrix units; rows of experts in those of 64 rows, and else in the smallest.
        for (i, shape) in MATRIX_SHAPES.iter().enumerate() {
            for (m, n) in [(36, 20), (132, 140)] {
                let name = format!("grouped/matrix_units/{shape}, {}", sizes(&[m, n]));
                let case = Case::new(if m == 36 { Usual } else { Quick }, name, async move |context| {
                    let _forced = context.gpu.forced(SHAPES.len() + i, 1);
                    verify(context, &[17, 3, 140, 0, 96, 2], 2, [m, n], DType::F16).await
                });
                all.push(case.needs(Needs::MatrixUnits));
            }
        }
    }
    all
}

/// Products of rows and matrices of type `stored`; in f16 they may be on matrix units, which may truncate their f32 sums.
async fn verify(
    context: &Context,
    counts: &[usize],
    spare: usize,
    [m, n]: [usize; 2],
    stored: DType,
) -> Result<Findings> {
    let gpu = &context.gpu;
    let host: HostGroups = groups(gpu, counts, spare)?;
    let (experts, rows, seed) = (counts.len(), host.groups.capacity, 7919 * context.seed);
    let held = |x: Array| if stored == DType::F16 { x.map(|&v| half::f16::from_f64(v).to_f64()) } else { x };
    let (x, dy) = (held(host.rows(m, 1 + seed)), held(host.rows(n, 2 + seed)));
    let w = held(Array::random(&[experts, m, n], 3 + seed));
    let (tx, tdy, tw) = (context.stored(&x, stored)?, context.stored(&dy, stored)?, context.stored(&w, stored)?);
    let mut found = Findings::default();
    let mut guards = Findings::default();
    // Rows of tiles without expert stay as they are.
    let run = async |found: &mut Findings| {
        let [y, dx, dw] = [&[rows, n][..], &[rows, m], &[experts, m, n]].map(|shape| Guarded::new(gpu, shape));
        let (y, dx, dw) = (y?, dx?, dw?);
        grouped_gemm(&tx, &tw, N, &host.groups, &y.inner)?;
        grouped_gemm(&tdy, &tw, T, &host.groups, &dx.inner)?;
        grouped_weight_gradient(&tx, &tdy, &host.groups, 0.0, &dw.inner)?;
        let once = [
            y.read("y", spare > 0, found).await?,
            dx.read("dx", spare > 0, found).await?,
            dw.read("dw", false, found).await?,
        ];
        grouped_gemm_onto(&tx, &tw, N, &host.groups, 1.0, &y.inner)?;
        grouped_weight_gradient(&tx, &tdy, &host.groups, 1.0, &dw.inner)?;
        let twice = [y.read("y, added", true, found).await?, dw.read("dw, added", true, found).await?];
        Ok([once.as_slice(), &twice].concat())
    };
    let parts = context.twice("products", &mut found, async || run(&mut guards).await).await?;
    guards.wrong.into_iter().for_each(|wrong| found.wrong(wrong));
    let [y, dx, dw, y_twice, dw_twice] = &parts[..] else { return Ok(found) };
    let part =
        |all: &[f32], e: usize, columns: usize| all[host.offsets[e] * columns..host.offsets[e + 1] * columns].to_vec();
    let truncated = if stored == DType::F16 { 2.0 } else { 1.0 };
    let abs = |x: &Array| x.map(|v| v.abs());
    let double = |x: &Array| x.map(|v| 2.0 * v);
    for (e, &count) in counts.iter().enumerate() {
        let (xe, dye, we) = (host.of(&x, e), host.of(&dy, e), w.matrix(e));
        let (want, bound) = (xe.matmul(&we), abs(&xe).matmul(&abs(&we)).map(|v| truncated * v));
        found.sums(&format!("y of expert {e}"), &part(y, e, n), &want, &bound, m);
        found.sums(&format!("y of expert {e}, added"), &part(y_twice, e, n), &double(&want), &double(&bound), m);
        let wt = we.transpose();
        let bound = abs(&dye).matmul(&abs(&wt)).map(|v| truncated * v);
        found.sums(&format!("dx of expert {e}"), &part(dx, e, m), &dye.matmul(&wt), &bound, n);
        let (xt, own) = (xe.transpose(), e * m * n..(e + 1) * m * n);
        let (want, bound) = (xt.matmul(&dye), abs(&xt).matmul(&abs(&dye)).map(|v| truncated * v));
        found.sums(&format!("dw of expert {e}"), &dw[own.clone()], &want, &bound, count);
        found.sums(&format!("dw of expert {e}, added"), &dw_twice[own], &double(&want), &double(&bound), count);
    }
    if y_twice[host.offsets[experts] * n..].iter().any(|v| !v.is_nan()) {
        found.wrong("y: a tile without expert was written");
    }
    Ok(found)
}
