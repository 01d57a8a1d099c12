//! The table of known failures, `known.toml`.

use std::sync::OnceLock;

use serde::Deserialize;

use super::header::Header;

/// An entry of the table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Known {
    case: String,
    variant: Option<String>,
    backend: String,
    driver: String,
    version: Option<String>,
    reason: String,
    link: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    failure: Vec<Known>,
}

/// All entries. A table that cannot be read has none; a test reads it.
fn table() -> &'static [Known] {
    static TABLE: OnceLock<Vec<Known>> = OnceLock::new();
    TABLE.get_or_init(|| read().unwrap_or_default())
}

fn read() -> Result<Vec<Known>, toml::de::Error> {
    toml::from_str::<Table>(include_str!("known.toml")).map(|table| table.failure)
}

impl Known {
    fn is(&self, name: &str, variant: &str, backend: &str, (driver, version): (&str, &str)) -> bool {
        name.starts_with(&self.case)
            && self.variant.as_ref().is_none_or(|v| v == variant)
            && self.backend == backend
            && driver.starts_with(&self.driver)
            && self.version.as_ref().is_none_or(|v| version.starts_with(v))
    }

    /// The reason, with the link where there is one.
    pub(super) fn reason(&self) -> String {
        match &self.link {
            Some(link) => format!("{} ({link})", self.reason),
            None => self.reason.clone(),
        }
    }
}

/// The entry that says that a case fails on this adapter.
pub(super) fn known(header: &Header, name: &str, variant: &str) -> Option<&'static Known> {
    let named = if header.driver_name.is_empty() { &header.adapter.name } else { &header.driver_name };
    let driver = (named.as_str(), header.driver_version.as_str());
    table().iter().find(|known| known.is(name, variant, &header.adapter.backend, driver))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_can_be_read_and_every_entry_has_a_reason() {
        for known in read().unwrap() {
            assert!(known.reason.len() > 20, "{known:?}");
        }
    }

    #[test]
    fn an_entry_holds_for_its_driver_and_version_alone() {
        let known = Known {
            case: "probe/a".into(),
            variant: None,
            backend: "Vulkan".into(),
            driver: "llvmpipe".into(),
            version: Some("Mesa 22.".into()),
            reason: String::new(),
            link: None,
        };
        let driver = ("llvmpipe", "Mesa 22.3.6");
        assert!(known.is("probe/a/b", "driver", "Vulkan", driver));
        assert!(!known.is("probe/b", "driver", "Vulkan", driver));
        assert!(!known.is("probe/a", "driver", "Metal", driver));
        assert!(!known.is("probe/a", "driver", "Vulkan", ("llvmpipe", "Mesa 25.0.7")));
        assert!(!known.is("probe/a", "driver", "Vulkan", ("SwiftShader driver", "Mesa 22.")));
    }
}
