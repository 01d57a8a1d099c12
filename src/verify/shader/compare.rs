//! Results of two runs, and of a run with what was expected.

use super::execute::Poison;
use super::layout::Leaf;
use super::parse::{BufferKind, Prepared, Variable};
use super::{Buffers, Job, Verification};

/// The buffers that the shader can write.
fn written(prepared: &Prepared) -> impl Iterator<Item = &Variable> {
    prepared.variables.iter().filter(|v| v.kind == BufferKind::Write)
}

/// The scalars of a variable, numbered.
fn scalars(variable: &Variable) -> impl Iterator<Item = (usize, Leaf)> + '_ {
    variable.layout.leaves(variable.size).enumerate()
}

/// Tells what was never written, and what differs between the first run and one with the number `run`, from 0.
pub(super) fn runs(job: &Job, prepared: &Prepared, [first, other]: [&Buffers; 2], run: u32, wrong: &mut Vec<String>) {
    for variable in written(prepared) {
        let name = &variable.name;
        let (Some(a), Some(b)) = (first.get(name), other.get(name)) else { continue };
        let unwritten = |leaf: &Leaf| {
            !job.inputs.contains_key(name)
                && leaf.bytes(a) == Poison::FIRST.bytes(*leaf)
                && leaf.bytes(b) == Poison::SECOND.bytes(*leaf)
        };
        let count = scalars(variable).count();
        if run == 1 {
            let mut all = scalars(variable).filter(|(_, leaf)| unwritten(leaf));
            if let Some((i, _)) = all.next() {
                let more = 1 + all.count();
                wrong.push(format!("`{name}`: element {i} was never written; {more} of {count} were not"));
            }
        }
        if !job.repeatable {
            continue;
        }
        let differs = |(_, leaf): &(usize, Leaf)| leaf.bytes(a) != leaf.bytes(b) && !(run % 2 == 1 && unwritten(leaf));
        let mut all = scalars(variable).filter(differs);
        if let Some((i, leaf)) = all.next() {
            let (a, b, more) = (leaf.show(a), leaf.show(b), 1 + all.count());
            let number = run + 1;
            wrong.push(format!(
                "`{name}`: element {i} is {a} in run 1 and {b} in run {number}; {more} of {count} differ"
            ));
        }
    }
}

/// Compares with what was expected.
pub(super) fn expected(job: &Job, prepared: &Prepared, found: &Buffers, to: &mut Verification) {
    for variable in written(prepared) {
        let name = &variable.name;
        let (Some(got), Some(want)) = (found.get(name), job.expected.get(name)) else { continue };
        let largest = scalars(variable).filter(|(_, l)| l.is_float()).map(|(_, l)| l.value(want).abs());
        let largest = largest.filter(|x| x.is_finite()).fold(0.0, f64::max);
        let allowed = job.tolerance.unwrap_or(0.0) * largest;
        // The difference of an element from what was expected: none where the bits are the same, which NaN may have too.
        let error = |leaf: &Leaf| {
            if leaf.bytes(got) == leaf.bytes(want) {
                return 0.0;
            }
            let difference = (leaf.value(got) - leaf.value(want)).abs();
            // Without a tolerance the bits count: -0 is not 0, and integers of 64 bits may be the same as floats.
            let bits = job.tolerance.is_none() || !leaf.is_float();
            if difference.is_nan() || bits { difference.max(f64::INFINITY) } else { difference }
        };
        let limit = |leaf: &Leaf| if leaf.is_float() { allowed } else { 0.0 };
        let bad = |leaf: &Leaf| error(leaf) > limit(leaf);
        let count = scalars(variable).count();
        let worst = scalars(variable).filter(|(_, l)| bad(l)).max_by(|(_, a), (_, b)| error(a).total_cmp(&error(b)));
        if let Some((_, _)) = worst {
            let (i, leaf) = match job.tolerance {
                Some(_) => worst,
                None => scalars(variable).find(|(_, l)| bad(l)),
            }
            .unwrap_or((0, Leaf { offset: 0, scalar: naga::Scalar::U32 }));
            let differ = scalars(variable).filter(|(_, l)| bad(l)).count();
            let by = match job.tolerance {
                Some(_) if leaf.is_float() => format!("off by {:.3e}, allowed {allowed:.3e}; ", error(&leaf)),
                _ => String::new(),
            };
            let (got, want) = (leaf.show(got), leaf.show(want));
            to.wrong.push(format!("`{name}`: element {i} is {got}, expected {want}; {by}{differ} of {count} differ"));
        }
        let errors = scalars(variable).filter(|(_, l)| l.is_float()).map(|(_, l)| error(&l));
        let error = errors.filter(|e| e.is_finite()).fold(0.0, f64::max);
        to.worst_error = Some(to.worst_error.unwrap_or(0.0).max(error));
        if allowed > 0.0 {
            to.share_of_tolerance = Some(to.share_of_tolerance.unwrap_or(0.0).max(error / allowed));
        }
    }
}
