//! A kernel's whole WGSL: the fragments that its sources need, its parameters, and what differs by the type of storage.
//!
//! A WGSL file says what it needs in a line of its own, and a fragment that several can stand in for says what it provides:
//!
//! ```text
//! // needs: lib/grid.wgsl, pack       a file of the folder of shaders; a word, of which the kernel chooses the fragment
//! // provides: pack                   this fragment is one that can be chosen
//! ```
//!
//! The build checks that what is needed exists, and embeds the folder. WGSL's globals may be declared in any order, so files
//! are joined as they are, each once, those that are needed first.

use super::{Kernel, ParamScalar};
use crate::error::{Error, Result};

mod embedded {
    include!(concat!(env!("OUT_DIR"), "/shaders.rs"));
}

/// The items of the lines of `source` that begin with `// key:`.
fn items<'a>(source: &'a str, key: &str) -> impl Iterator<Item = &'a str> {
    let lines = source
        .lines()
        .filter_map(move |line| line.trim_start().strip_prefix("// ")?.strip_prefix(key)?.strip_prefix(':'));
    lines.flat_map(|list| list.split(',')).map(str::trim)
}

/// The sources of `kernel` with all that they need, each after what it needs itself.
///
/// # Errors
/// [`Error::Kernel`] when a source needs a file that is not embedded, or a word that none of the kernel's sources
/// provides.
pub fn sources(kernel: &Kernel) -> Result<Vec<&'static str>> {
    let mut found = Vec::new();
    // The last source is the kernel's own, the others are fragments that it or its fragments need.
    for source in kernel.sources.iter().rev() {
        add(kernel, source, &mut found)?;
    }
    Ok(found)
}

fn add(kernel: &Kernel, source: &'static str, found: &mut Vec<&'static str>) -> Result<()> {
    if found.contains(&source) {
        return Ok(());
    }
    let fail = |message| Err(Error::Kernel { kernel: kernel.name.into(), message });
    for need in items(source, "needs") {
        if need.ends_with(".wgsl") {
            match embedded::FILES.iter().find(|(name, _)| *name == need) {
                Some((_, fragment)) => add(kernel, fragment, found)?,
                None => return fail(format!("needs `{need}`, which is none of this crate's shaders")),
            }
            continue;
        }
        let provides = |source: &str| items(source, "provides").any(|word| word == need);
        if found.iter().any(|source| provides(source)) {
            continue;
        }
        match kernel.sources.iter().find(|source| provides(source)) {
            Some(fragment) => add(kernel, fragment, found)?,
            None => {
                let known = embedded::FILES.iter().filter(|(_, text)| provides(text));
                let known = known.map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
                return fail(format!("needs `{need}`: expected one of {known} among its sources, got none"));
            }
        }
    }
    found.push(source);
    Ok(())
}

/// The kernel's whole WGSL for a launch in which the variables named in `half` are bound to f16.
///
/// A kernel that can store in f16 writes its variables' types by aliases, which are declared here: `Real`, f16 where any
/// variable is bound to f16; and for variables that may differ from the others, `Real` with the variable's capitalised
/// name: `RealA` for `a`, `RealOutB` for `out_b`. Arithmetic is in f32 whatever is stored, but for the products of f16
/// operands on matrix units. `enable` directives come first in WGSL, so they are added here too, and `struct Params` is
/// declared as the kernel's parameters have it.
///
/// # Errors
/// As [`sources`].
pub fn compose_half(kernel: &Kernel, half: &[&str]) -> Result<String> {
    let sources = sources(kernel)?.join("\n");
    let cooperative = kernel.needs_cooperative_matrix();
    let mut prelude = String::new();
    if !half.is_empty() || cooperative {
        prelude.push_str("enable f16;\n");
    }
    if cooperative {
        prelude.push_str("enable wgpu_cooperative_matrix;\n");
    }
    for name in storage_aliases(&sources) {
        let is_half = match name.strip_prefix("Real").unwrap_or_default() {
            "" => !half.is_empty(),
            variable => half.iter().any(|h| h.replace('_', "").eq_ignore_ascii_case(variable)),
        };
        prelude.push_str(&format!("alias {name} = {};\n", if is_half { "f16" } else { "f32" }));
    }
    if !kernel.params.is_empty() {
        let fields = kernel.params.iter().map(|(name, scalar)| match scalar {
            ParamScalar::F32 => format!("    {name}: f32,\n"),
            ParamScalar::U32 => format!("    {name}: u32,\n"),
        });
        prelude.push_str(&format!("struct Params {{\n{}}}\n", fields.collect::<String>()));
    }
    Ok(prelude + &sources)
}

/// The names that begin with `Real` in a WGSL source, each once.
fn storage_aliases(source: &str) -> Vec<&str> {
    let words = source.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let mut names: Vec<_> = words.filter(|w| w.starts_with("Real")).collect();
    names.sort_unstable();
    names.dedup();
    names
}
