//! The parts that all drawings have: a frame with a title, and text that fits.

use maud::{Markup, PreEscaped, html};

use super::number::coordinate;

/// Width of one panel: a phone shows one beside nothing, a desktop three in a row.
pub const WIDTH: f64 = 340.0;

/// How drawings look, in the page and in files of their own.
pub const STYLE: &str = include_str!("svg.css");

/// One drawing.
#[derive(Clone, Debug)]
pub struct Panel {
    /// The `<svg>` element.
    pub svg: Markup,
    /// Its height; the width is [`WIDTH`].
    pub height: f64,
}

/// A panel of `height` around `content`, with its heading.
pub fn panel(height: f64, heading: &str, attributes: &[(&str, String)], content: &Markup) -> Panel {
    let extra: String = attributes.iter().map(|(name, value)| format!(" {name}=\"{}\"", escape(value))).collect();
    let open = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" class="panel" role="img" viewBox="0 0 {WIDTH} {}" width="{WIDTH}" height="{}"{extra}>"#,
        coordinate(height),
        coordinate(height)
    );
    let svg = html! {
        (PreEscaped(open))
        text.heading x="0" y="13" { (shorten(heading, 46)) }
        (content)
        (PreEscaped("</svg>"))
    };
    Panel { svg, height }
}

/// `text` for an attribute's value.
fn escape(text: &str) -> String {
    html! { (text) }.into_string()
}

/// At most `most` characters: the middle of a longer text gives way to an ellipsis.
pub fn shorten(text: &str, most: usize) -> String {
    let characters: Vec<char> = text.chars().collect();
    if characters.len() <= most {
        return text.to_owned();
    }
    let (head, tail) = ((most - 1).div_ceil(2), (most - 1) / 2);
    let start = characters.iter().take(head);
    start.chain(&['\u{2026}']).chain(&characters[characters.len() - tail..]).collect()
}

/// About how wide a text of 11 px is, to lay out a legend.
pub fn text_width(text: &str) -> f64 {
    6.5 * text.chars().count() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_keeps_its_ends() {
        assert_eq!(shorten("abcdef", 6), "abcdef");
        assert_eq!(shorten("abcdefg", 6), "abc\u{2026}fg");
        assert_eq!(shorten("\u{e4}\u{f6}\u{fc}", 2), "\u{e4}\u{2026}");
    }
}
