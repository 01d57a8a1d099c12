//! Parameters that do not move, chosen by patterns of their names.
//!
//! A pattern is one or more words with dots between them, as names are. It chooses every parameter whose name has these words
//! behind each other: `embed`, `experts`, `layers.0`, `layers.*.attn`. In a word `*` stands for any letters: `*norm`.

use crate::error::{Error, Result};

/// The setting.
const FIELD: &str = "optimizer.freeze";

/// The patterns of what does not move.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frozen {
    patterns: Vec<String>,
}

impl Frozen {
    /// That which `patterns` choose.
    pub fn new(patterns: &[String]) -> Self {
        Self { patterns: patterns.to_vec() }
    }

    /// Whether a parameter of that name does not move.
    pub fn contains(&self, name: &str) -> bool {
        self.patterns.iter().any(|pattern| chooses(pattern, name))
    }

    /// Checks that each pattern has words and chooses one of `names` at least.
    ///
    /// # Errors
    /// [`Error::Config`] names the pattern that does not, with examples of names.
    pub fn require_matches(&self, names: &[&str]) -> Result<()> {
        for pattern in &self.patterns {
            if !names.iter().any(|name| chooses(pattern, name)) {
                // One of each sort: the parts of the first layers are those of all.
                let mut examples: Vec<String> = Vec::new();
                for name in names {
                    let general = general(name);
                    if !examples.contains(&general) {
                        examples.push(general);
                    }
                }
                let examples = examples.join(", ");
                let message = format!(
                    "expected patterns of parameters' names, got `{pattern}`, which none of them has ({examples})"
                );
                return Err(Error::config(FIELD, message));
            }
        }
        Ok(())
    }
}

/// Checks the form of patterns.
///
/// # Errors
/// [`Error::Config`] for one that has an empty word.
pub(super) fn validate(patterns: &[String]) -> Result<()> {
    match patterns.iter().find(|pattern| pattern.split('.').any(str::is_empty)) {
        Some(bad) => {
            let message = format!("expected patterns of names such as `embed` or `layers.*.attn`, got `{bad}`");
            Err(Error::config(FIELD, message))
        }
        None => Ok(()),
    }
}

/// `layers.*.attn.wq` of `layers.3.attn.wq`.
fn general(name: &str) -> String {
    let words = name.split('.').map(|word| if word.parse::<u64>().is_ok() { "*" } else { word });
    words.collect::<Vec<_>>().join(".")
}

/// Whether the words of `pattern` stand behind each other in `name`.
fn chooses(pattern: &str, name: &str) -> bool {
    let pattern: Vec<&str> = pattern.split('.').collect();
    let name: Vec<&str> = name.split('.').collect();
    name.windows(pattern.len()).any(|part| part.iter().zip(&pattern).all(|(word, pattern)| fits(pattern, word)))
}

/// Whether a word is of the form of another in which each `*` stands for any letters.
fn fits(pattern: &str, word: &str) -> bool {
    let Some((before, rest)) = pattern.split_once('*') else { return pattern == word };
    let Some(left) = word.strip_prefix(before) else { return false };
    (0..=left.len()).filter(|&i| left.is_char_boundary(i)).any(|i| fits(rest, &left[i..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_chooses_names_that_have_its_words_behind_each_other() {
        for (pattern, name, wanted) in [
            ("embed", "embed.weight", true),
            ("experts", "layers.3.moe.experts.gate", true),
            ("layers.*.attn", "layers.12.attn.wq", true),
            ("layers.1", "layers.12.attn.wq", false),
            ("layers.1*", "layers.12.attn.wq", true),
            ("attn", "layers.0.attn_norm.weight", false),
            ("*norm", "layers.0.attn_norm.weight", true),
            ("*", "final_norm.weight", true),
            ("a*b*c", "axxbyc", true),
            ("a*b*c", "axxcyb", false),
            ("weight.embed", "embed.weight", false),
            ("layers.0.attn.wq.more", "layers.0.attn.wq", false),
        ] {
            assert_eq!(chooses(pattern, name), wanted, "{pattern} {name}");
        }
    }

    #[test]
    fn a_pattern_that_chooses_nothing_is_told_with_what_there_is() {
        let names = ["embed.weight", "layers.0.attn.wq", "layers.1.attn.wq"];
        let frozen = |pattern: &str| Frozen::new(&["embed".to_owned(), pattern.to_owned()]);
        frozen("attn").require_matches(&names).unwrap();
        let message = frozen("attention").require_matches(&names).unwrap_err().to_string();
        assert!(
            message.ends_with("got `attention`, which none of them has (embed.weight, layers.*.attn.wq)"),
            "{message}"
        );
        assert!(validate(&["a..b".into()]).unwrap_err().to_string().contains("got `a..b`"));
        validate(&["a.b".into()]).unwrap();
    }
}
