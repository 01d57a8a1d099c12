//! Colours: one even scale for quantities, that of the reports, and one hue an expert.

use eframe::egui::Color32;

/// Viridis from dark (low) to bright (high); what is outside of [0, 1] takes an end.
pub fn scale(x: f64) -> Color32 {
    let c = colorous::VIRIDIS.eval_continuous(if x.is_finite() { x.clamp(0.0, 1.0) } else { 0.0 });
    Color32::from_rgb(c.r, c.g, c.b)
}

/// The hue of an expert: ten that are easily told apart, then even steps around the circle.
pub fn expert(i: usize, count: usize) -> Color32 {
    let c = if count <= 10 { colorous::TABLEAU10[i % 10] } else { colorous::RAINBOW.eval_rational(i, count) };
    Color32::from_rgb(c.r, c.g, c.b)
}

/// The model with decoupling.
pub const DECOUPLED: Color32 = Color32::from_rgb(0x4f, 0xb5, 0xe8);
/// The model without.
pub const PLAIN: Color32 = Color32::from_rgb(0xf2, 0xa0, 0x3d);
/// The level of chance.
pub const CHANCE: Color32 = Color32::from_rgb(0xe0, 0x5a, 0x6d);
/// Words that explain.
pub const QUIET: Color32 = Color32::from_rgb(0x9a, 0xa4, 0xb2);

/// Black or white, whichever is read on `background`.
pub fn on(background: Color32) -> Color32 {
    let [r, g, b, _] = background.to_array().map(f32::from);
    if 0.2126 * r + 0.7152 * g + 0.0722 * b > 128.0 { Color32::BLACK } else { Color32::WHITE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_is_that_of_the_reports() {
        assert_eq!(
            (scale(0.0), scale(1.0)),
            (Color32::from_rgb(0x44, 0x01, 0x54), Color32::from_rgb(0xfd, 0xe7, 0x25))
        );
        assert_eq!((scale(f64::NAN), scale(7.0)), (scale(0.0), scale(1.0)));
    }
}
