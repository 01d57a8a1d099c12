//! Colours: one perceptually even scale for everything that is a quantity.

/// Steps of the scale; even neighbours differ by less than the eye can tell apart in small cells.
pub const STEPS: usize = 64;

/// Step `i` of viridis (dark is low, bright is high), `#rrggbb`.
pub fn step(i: usize) -> String {
    let c = colorous::VIRIDIS.eval_continuous(i.min(STEPS - 1) as f64 / (STEPS - 1) as f64);
    format!("#{c:x}")
}

/// The whole scale as hexadecimal digits, six a step: what the page's script draws with.
pub fn scale() -> String {
    (0..STEPS).map(|i| step(i).split_off(1)).collect()
}

/// The step of `x` on a scale from `lo` to `hi`.
pub fn step_of(x: f64, lo: f64, hi: f64) -> usize {
    let share = if hi > lo { (x - lo) / (hi - lo) } else { 0.0 };
    // Truncation puts NaN and what lies outside onto an end.
    ((share * STEPS as f64) as usize).min(STEPS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_has_viridis_ends_and_grows_brighter_by_even_steps() {
        assert_eq!((step(0).as_str(), step(STEPS - 1).as_str()), ("#440154", "#fde725"));
        assert_eq!(scale().len(), 6 * STEPS);
        // Rec. 709 luma of the gamma-encoded colour: close to lightness, and rising all along.
        let luma = |i: usize| {
            let c = u32::from_str_radix(&step(i)[1..], 16).unwrap();
            0.2126 * f64::from(c >> 16) + 0.7152 * f64::from(c >> 8 & 255) + 0.0722 * f64::from(c & 255)
        };
        assert!((1..STEPS).all(|i| luma(i) > luma(i - 1)));
        assert_eq!([-1.0, 0.0, 0.5, 1.0, 9.0, f64::NAN].map(|x| step_of(x, 0.0, 1.0)), [0, 0, 32, 63, 63, 0]);
    }
}
