//! Checks what the libraries compute, and times them round by round.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use crate::library::{Dense, Library, Random, Result, Work};

/// The shortest time that one measurement takes, in seconds.
const LEAST: f64 = 0.04;
/// The longest run of a product that is measured, in seconds.
const LONGEST: f64 = 4.0;

/// The figures of one library for one case.
pub struct Figures {
    pub case: String,
    pub library: &'static str,
    /// Seconds of a run in each round.
    pub times: Vec<f64>,
    /// The time over that of the first library, round by round.
    pub ratios: Vec<f64>,
    /// Operations of a run of a product.
    pub flop: Option<f64>,
    pub checked: Checked,
}

/// What was found right before the clock ran.
pub enum Checked {
    /// The distance of a product from that in f64, over the norm of the latter.
    Error(f64),
    /// The losses of the first and the last step.
    Losses(f32, f32),
}

/// Work that is ready to be timed.
struct Ready {
    library: &'static str,
    work: Box<dyn Work>,
    repeats: usize,
    checked: Checked,
}

/// The `q`-quantile.
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * q).round() as usize]
}

/// Products of `a: [m, k]` and `b: [k, n]`.
pub fn products(libraries: &[Box<dyn Library>], [m, k, n]: [usize; 3], rounds: usize) -> Result<Vec<Figures>> {
    let case = format!("gemm.nn.{m}x{k}x{n}");
    let mut random = Random(1);
    let (a, b) = (random.fill(m * k, 1.0), random.fill(k * n, 1.0));
    let exact = reference(&a, &b, [k, n]);
    let ready = prepare(libraries, &case, |library| {
        let mut work = library.product([m, k, n], &a, &b)?;
        seconds(&mut *work, 1)?;
        let error = distance(&work.result()?, &exact)?;
        // A sum of k terms rounds k times; operands that were rounded to fewer bits are off by far more.
        let bound = f64::from(f32::EPSILON) * (k as f64).sqrt();
        if error.is_nan() || error > bound {
            return Err(format!("is off by {error:.1e} of the product, in f32 at most {bound:.1e}").into());
        }
        let once = seconds(&mut *work, 1)?;
        if once > LONGEST {
            return Err(format!("takes {once:.1} s").into());
        }
        let repeats = (LEAST / once).ceil() as usize;
        Ok(Ready { library: library.name(), work, repeats, checked: Checked::Error(error) })
    });
    let flop = 2.0 * (m * k * n) as f64;
    time(&case, ready, rounds, Some(flop))
}

/// Training steps: forward, backward and the update of all weights.
pub fn steps(libraries: &[Box<dyn Library>], model: &Dense, length: usize, rounds: usize) -> Result<Vec<Figures>> {
    let case = format!("step.dense.{}layers.{length}tokens", model.layers);
    let text = Random(2).text(length, model.vocab);
    // The loss of a model that knows nothing.
    let even = (model.vocab as f32).ln();
    let ready = prepare(libraries, &case, |library| {
        let mut work = library.training(model, &text)?;
        seconds(&mut *work, 1)?;
        let loss = work.result()?[0];
        if !(0.9 * even..1.1 * even).contains(&loss) {
            return Err(format!("begins with a loss of {loss}, expected about {even:.2}").into());
        }
        // burn still tunes in the second step, the first with moments of the weights.
        seconds(&mut *work, 2)?;
        Ok(Ready { library: library.name(), work, repeats: 1, checked: Checked::Losses(loss, loss) })
    });
    time(&case, ready, rounds, None)
}

/// What each library is ready to run; one that fails is told of and left out, and the case with the first of them, which the others are
/// set against.
fn prepare(libraries: &[Box<dyn Library>], case: &str, make: impl Fn(&dyn Library) -> Result<Ready>) -> Vec<Ready> {
    let mut all = Vec::new();
    for library in libraries {
        // burn and meganeura panic where a driver refuses something.
        let made = catch_unwind(AssertUnwindSafe(|| make(library.as_ref())));
        match made.unwrap_or_else(|_| Err("panicked".into())) {
            Ok(ready) => all.push(ready),
            Err(problem) => eprintln!("left out: {case} by {}: {problem}", library.name()),
        }
        if all.is_empty() {
            break;
        }
    }
    all
}

/// Runs the work `repeats` times and waits: seconds of one run.
fn seconds(work: &mut dyn Work, repeats: usize) -> Result<f64> {
    let began = Instant::now();
    for _ in 0..repeats {
        work.run()?;
    }
    work.wait()?;
    Ok(began.elapsed().as_secs_f64() / repeats as f64)
}

/// Each library in turn, forwards and backwards, so that each comes first as often.
fn time(case: &str, mut ready: Vec<Ready>, rounds: usize, flop: Option<f64>) -> Result<Vec<Figures>> {
    let mut times = vec![Vec::new(); ready.len()];
    for round in 0..rounds {
        let mut order: Vec<usize> = (0..ready.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for i in order {
            let one = &mut ready[i];
            times[i].push(seconds(&mut *one.work, one.repeats)?);
        }
    }
    let first = times.first().cloned().unwrap_or_default();
    let mut all = Vec::new();
    for (mut ready, times) in ready.into_iter().zip(times) {
        if let Checked::Losses(_, last) = &mut ready.checked {
            *last = ready.work.result()?[0];
        }
        let ratios = times.iter().zip(&first).map(|(time, first)| time / first).collect();
        let (library, checked) = (ready.library, ready.checked);
        all.push(Figures { case: case.to_owned(), library, times, ratios, flop, checked });
    }
    Ok(all)
}

/// The product in f64.
fn reference(a: &[f32], b: &[f32], [k, n]: [usize; 2]) -> Vec<f64> {
    let row = |a: &[f32]| {
        let mut sums = vec![0.0; n];
        for (x, b) in a.iter().zip(b.chunks(n)) {
            sums.iter_mut().zip(b).for_each(|(sum, y)| *sum += f64::from(*x) * f64::from(*y));
        }
        sums
    };
    a.chunks(k).flat_map(row).collect()
}

/// The norm of the difference over that of `exact`.
fn distance(found: &[f32], exact: &[f64]) -> Result<f64> {
    if found.len() != exact.len() {
        return Err(format!("{} elements in place of {}", found.len(), exact.len()).into());
    }
    let squares = found.iter().zip(exact).map(|(x, y)| (f64::from(*x) - y).powi(2)).sum::<f64>();
    Ok((squares / exact.iter().map(|y| y * y).sum::<f64>()).sqrt())
}
