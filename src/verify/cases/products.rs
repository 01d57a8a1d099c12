//! Dense products in every form, size, batch and tile.

use super::sizes;
use crate::autograd::Array;
use crate::error::Result;
use crate::gpu::Tier;
use crate::kernels::gemm::Trans::{self, N, T};
use crate::kernels::gemm::gemm;
use crate::kernels::matrix_shapes::MATRIX_SHAPES;
use crate::kernels::shapes::SHAPES;
use crate::tensor::DType;
use crate::verify::Level::{self, Full, Quick, Usual};
use crate::verify::context::{Case, Context, Findings, Guarded, Needs};

const FORMS: [(Trans, Trans); 4] = [(N, N), (N, T), (T, N), (T, T)];

/// A batch of products `C = alpha op(A) op(B) + beta C`.
#[derive(Clone, Copy)]
struct Product {
    forms: (Trans, Trans),
    /// m, k, n.
    sizes: [usize; 3],
    batch: usize,
    /// How many matrices of C one of A and one of B is used for.
    repeats: (usize, usize),
    factors: (f32, f32),
}

impl Product {
    fn new(forms: (Trans, Trans), sizes: [usize; 3]) -> Self {
        Self { forms, sizes, batch: 1, repeats: (1, 1), factors: (1.0, 0.0) }
    }

    fn name(&self) -> String {
        let letter = |t: Trans| if t == N { 'n' } else { 't' };
        let mut name = format!("{}{} {}", letter(self.forms.0), letter(self.forms.1), sizes(&self.sizes));
        if self.batch > 1 {
            name += &format!(", batch {}", self.batch);
        }
        if self.repeats != (1, 1) {
            name += &format!(", repeats {} and {}", self.repeats.0, self.repeats.1);
        }
        if self.factors != (1.0, 0.0) {
            name += &format!(", alpha {} beta {}", self.factors.0, self.factors.1);
        }
        name
    }

    async fn verify(&self, context: &Context) -> Result<Findings> {
        let Product { forms: (ta, tb), sizes: [m, k, n], batch, repeats: (ra, rb), factors: (alpha, beta) } = *self;
        let shape = |t, count, rows, columns| if t == N { [count, rows, columns] } else { [count, columns, rows] };
        let seed = 7919 * context.seed;
        let a = Array::random(&shape(ta, batch / ra, m, k), 1 + seed);
        let b = Array::random(&shape(tb, batch / rb, k, n), 2 + seed);
        let before = Array::random(&[batch, m, n], 3 + seed).map(|x| if beta == 0.0 { 0.0 } else { *x });
        let (mut found, mut guards) = (Findings::default(), Findings::default());
        let got = context
            .twice("C", &mut found, async || {
                // Operands between guards: what is read beyond them spoils the sums.
                let [a, b] = [&a, &b].map(|x| Guarded::holding(&context.gpu, x));
                let (a, b) = (a?, b?);
                let c = if beta == 0.0 {
                    Guarded::new(&context.gpu, &[batch, m, n])?
                } else {
                    Guarded::holding(&context.gpu, &before)?
                };
                gemm(ta, tb, alpha, &a.inner, &b.inner, beta, &c.inner)?;
                Ok(vec![c.read("C", false, &mut guards).await?])
            })
            .await?;
        guards.wrong.into_iter().for_each(|wrong| found.wrong(wrong));
        let (alpha, beta) = (f64::from(alpha), f64::from(beta));
        for z in 0..batch {
            let op = |t: Trans, x: Array| if t == N { x } else { x.transpose() };
            let (x, y) = (op(ta, a.matrix(z / ra)), op(tb, b.matrix(z / rb)));
            let want = x.matmul(&y).zip(&before.matrix(z), |p, c| alpha * p + beta * c);
            let bound = x.map(|v| v.abs()).matmul(&y.map(|v| v.abs()));
            let bound = bound.zip(&before.matrix(z), |p, c| (alpha * p).abs() + (beta * c).abs());
            found.sums(&format!("C, matrix {z}"), &got[0][z * m * n..(z + 1) * m * n], &want, &bound, k);
        }
        Ok(found)
    }

    fn case(self, level: Level, group: &str) -> Case {
        Case::new(level, format!("{group}/{}", self.name()), async move |context| self.verify(context).await)
    }
}

/// A product whose operands are f16 where a bit of `types` is 1: A, B, C.
async fn mixed(
    context: &Context,
    types: u32,
    (ta, tb): (Trans, Trans),
    [m, k, n]: [usize; 3],
    matrix_units: bool,
) -> Result<Findings> {
    let mut found = Findings::default();
    let dtype = |bit: u32| if types >> bit & 1 == 1 { DType::F16 } else { DType::F32 };
    let rounded = |shape: [usize; 2], seed| {
        Array::random(&shape, seed + 7919 * context.seed).map(|&v| f64::from(half::f16::from_f64(v)))
    };
    let (a, b, c) = (rounded([m, k], 1), rounded([k, n], 2), rounded([m, n], 3));
    let want = a.matmul(&b).zip(&c, |ab, c| 0.5 * ab - c);
    let bound = a.map(|x| x.abs()).matmul(&b.map(|x| x.abs())).zip(&c, |ab, c| 0.5 * ab + c.abs());
    let stored = |t: Trans, x: &Array, bit| context.stored(&if t == T { x.transpose() } else { x.clone() }, dtype(bit));
    let got = context
        .twice("C", &mut found, async || {
            let y = context.stored(&c, dtype(2))?;
            gemm(ta, tb, 0.5, &stored(ta, &a, 0)?, &stored(tb, &b, 1)?, -1.0, &y)?;
            Ok(vec![y.to_f32().await?])
        })
        .await?;
    // Matrix units may truncate their f32 sums instead of rounding them. A result in f16 is rounded once.
    let truncated = if matrix_units { 2.0 } else { 1.0 };
    let eps = if dtype(2) == DType::F16 { f64::exp2(-11.0) } else { 0.0 };
    let sum = 2.0 * (k + 2) as f64 * 6e-8 * truncated;
    let share = |i: usize| {
        (f64::from(got[0][i]) - want.data[i]).abs() / (sum * bound.data[i] + eps * want.data[i].abs() + 1e-30)
    };
    let worst = (0..want.data.len()).max_by(|&i, &j| share(i).total_cmp(&share(j))).unwrap_or(0);
    let allowed = sum * bound.data[worst] + eps * want.data[worst].abs() + 1e-30;
    let what = format!("C: element {worst} is {}, expected {}; off by", got[0][worst], want.data[worst]);
    found.at_most(&what, (f64::from(got[0][worst]) - want.data[worst]).abs(), allowed);
    Ok(found)
}

/// All of them.
pub(super) fn cases(tier: Tier) -> Vec<Case> {
    let mut all = Vec::new();
    for (level, sizes) in [
        (Usual, [1, 1, 1]),
        (Usual, [1, 7, 1]),
        (Usual, [5, 1, 3]),
        (Usual, [4, 4, 4]),
        (Quick, [7, 33, 5]),
        (Usual, [8, 64, 40]),
        (Usual, [8, 31, 70]),
        (Usual, [64, 36, 8]),
        (Usual, [67, 20, 8]),
        (Usual, [12, 40, 44]),
        (Usual, [16, 24, 100]),
        (Usual, [32, 32, 32]),
        (Usual, [33, 5, 36]),
        (Quick, [97, 64, 68]),
        (Usual, [61, 103, 131]),
        (Usual, [128, 48, 64]),
        (Usual, [201, 209, 205]),
        (Usual, [183, 1030, 185]),
    ] {
        all.extend(FORMS.map(|forms| Product::new(forms, sizes).case(level, "gemm/dense")));
    }
    for sizes in [[12, 20, 36], [9, 21, 35], [40, 12, 8]] {
        for factors in [(1.0, 1.0), (-0.5, 0.0), (2.0, 0.25)] {
            let level = if sizes[0] == 9 && factors.1 == 0.25 { Quick } else { Usual };
            all.extend(
                FORMS.map(|forms| {
                    Product { batch: 2, factors, ..Product::new(forms, sizes) }.case(level, "gemm/factors")
                }),
            );
        }
    }
    for sizes in [[8, 36, 32], [36, 32, 8], [5, 7, 11], [40, 8, 40]] {
        for repeats in [(3, 1), (1, 6), (2, 3), (6, 6)] {
            let level = if sizes[0] == 5 && repeats == (2, 3) { Quick } else { Usual };
            all.extend(
                FORMS
                    .map(|forms| Product { batch: 6, repeats, ..Product::new(forms, sizes) }.case(level, "gemm/batch")),
            );
        }
    }
    // Few rows, whose sums are cut where they are long.
    for (level, sizes) in [
        (Usual, [1, 5, 7]),
        (Quick, [1, 1100, 68]),
        (Usual, [2, 36, 133]),
        (Usual, [3, 1030, 12]),
        (Usual, [4, 64, 1000]),
    ] {
        for forms in [(N, N), (N, T)] {
            let few = Product { batch: 2, factors: (0.5, 0.25), ..Product::new(forms, sizes) };
            all.push(few.case(level, "gemm/few"));
        }
    }
    for sizes in [[130, 4, 16], [67, 61, 8], [16, 100, 132], [200, 40, 17], [1, 300, 260]] {
        let forms = [(N, N), (T, N), (N, T)];
        let narrow = |forms| Product { batch: 2, factors: (0.5, 0.25), ..Product::new(forms, sizes) };
        all.extend(forms.map(|forms| narrow(forms).case(Usual, "gemm/narrow")));
    }
    if tier == Tier::Gpu {
        all.extend(shapes());
    }
    // Every combination of types, aligned or not, in one form each: a kernel takes long to compile.
    for (types, forms) in (1..8).zip([(N, N), (N, T), (T, N)].into_iter().cycle()) {
        let sizes = if types % 2 == 0 { [65, 24, 36] } else { [7, 9, 5] };
        let level = if types == 3 { Quick } else { Usual };
        let letters: String = (0..3).map(|bit| if types >> bit & 1 == 1 { 'h' } else { 's' }).collect();
        let name = format!("gemm/f16/{letters} {}", super::sizes(&sizes));
        all.push(Case::new(level, name, async move |c| mixed(c, types, forms, sizes, false).await).needs(Needs::F16));
    }
    if tier == Tier::Gpu {
        all.extend(on_matrix_units());
    }
    all
}

/// Every tile of a product on matrix units, sums whole and cut, and those that the table chooses.
fn on_matrix_units() -> Vec<Case> {
    let mut all = Vec::new();
    let mut add = |level, types, forms, sizes, shape: Option<(usize, usize)>| {
        let shown = shape.map_or("chosen".to_owned(), |(i, splits)| format!("{}, {splits} parts", MATRIX_SHAPES[i]));
        let stored = if types == 7 { " to f16" } else { "" };
        let name = format!("gemm/matrix_units/{shown}, {}{stored}", Product::new(forms, sizes).name());
        let case = Case::new(level, name, async move |context: &Context| {
            let _forced = shape.map(|(i, splits)| context.gpu.forced(SHAPES.len() + i, splits));
            mixed(context, types, forms, sizes, true).await
        });
        all.push(case.needs(Needs::MatrixUnits));
    };
    for sizes in [[64, 64, 64], [20, 40, 24], [128, 256, 192], [260, 1000, 516]] {
        FORMS.into_iter().for_each(|forms| add(Usual, 3, forms, sizes, None));
    }
    for i in 0..MATRIX_SHAPES.len() {
        for forms in FORMS {
            add(Quick, 3, forms, [132, 100, 140], Some((i, 1)));
            add(Usual, 3, forms, [36, 300, 40], Some((i, 3)));
        }
        add(Usual, 7, (N, T), [132, 100, 140], Some((i, 1)));
    }
    all
}

/// Every tile of a product on GPUs, sums whole and cut.
fn shapes() -> Vec<Case> {
    let mut all = Vec::new();
    for (index, shape) in SHAPES.iter().enumerate() {
        let first = SHAPES.iter().position(|other| other.block == shape.block) == Some(index);
        let mut add = |level, forms, sizes, splits: usize| {
            let (batch, beta) = if splits == 1 { (1, 0.0) } else { (2, 2.0) };
            let product = Product { batch, repeats: (1, batch), factors: (0.5, beta), ..Product::new(forms, sizes) };
            let name = format!("gemm/tiles/{shape}, {splits} parts, {}", product.name());
            all.push(Case::new(level, name, async move |context: &Context| {
                let _forced = context.gpu.forced(index, splits);
                product.verify(context).await
            }));
        };
        let level = if first { Quick } else { Usual };
        add(level, (N, T), [132, 40, 136], 1);
        add(Usual, (T, N), [132, 40, 136], 1);
        for forms in FORMS {
            let level = if first { Usual } else { Full };
            add(level, forms, [131, 75, 67], 1);
            add(level, forms, [12, 40, 33], 1);
        }
        for forms in [(N, N), (T, T)] {
            let level = if first { Usual } else { Full };
            add(level, forms, [36, 300, 40], 3);
            add(level, forms, [5, 107, 67], 3);
        }
    }
    all
}
