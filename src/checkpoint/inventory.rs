//! The experts that a checkpoint holds: tensors by their names and shapes, sorted into layers and checked against each other.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Display;

use safetensors::tensor::TensorInfo;

use super::coverage::TensorCoverage;
use super::layer::{ExpertLayer, ExpertStack, Place, SpectralPlaces};
use super::names::{Role, SpectralPart, beside_model, looks_like_expert, role, shown, stack};
use super::table::TensorTable;
use super::target::Target;
use super::widen::Element;
use crate::error::{Error, Result};
use crate::nn::config::ExpertMatrix;

/// More experts than this in one layer are taken for a damaged header.
const MAX_EXPERTS: usize = 1 << 20;

/// The experts found in one layer before they are checked.
#[derive(Default)]
struct Found {
    kinds: [BTreeMap<usize, Matrix>; 3],
    router: Option<(Place, bool)>,
    spectral: [BTreeMap<u8, Place>; 3],
}

struct Matrix {
    place: Place,
    /// As METHOD has it: in, out.
    shape: [usize; 2],
    transposed: bool,
}

/// The stacks of layers, the model's own first, and what they leave.
pub(super) fn take(target: &Target) -> Result<(Vec<ExpertStack>, TensorCoverage)> {
    let mut found: BTreeMap<(&str, usize), Found> = BTreeMap::new();
    let mut coverage = TensorCoverage::default();
    for (name, &file) in &target.tensors {
        let table = &target.files[file];
        let place = |first| Place { file, tensor: name.clone(), first };
        // Every name in the list is in its file's header.
        let Some(info) = table.info(name) else { continue };
        let (role, stack) = (role(name), stack(name));
        match role {
            Role::Other => coverage.other += 1,
            Role::Unknown => {
                coverage.unknown.push(name.clone());
                coverage.unread_experts.extend(looks_like_expert(name, &info.shape).then(|| name.clone()));
            }
            Role::Router { layer, own } => {
                if let Some((twice, _)) = found.entry((stack, layer)).or_default().router.replace((place(0), own)) {
                    let message = format!(
                        "expected the only router of layer {layer}, got tensor `{}`, too",
                        shown(&twice.tensor)
                    );
                    return Err(table.bad(name, message));
                }
            }
            Role::Spectral { layer, matrix, part } => {
                readable(table, name, info)?;
                coverage.spectral += 1;
                found.entry((stack, layer)).or_default().spectral[matrix as usize].insert(part as u8, place(0));
            }
            Role::Expert { .. } | Role::Stack { .. } | Role::FusedGateUp { .. } | Role::FusedDown { .. } => {
                readable(table, name, info)?;
                coverage.expert_tensors += 1;
                for (layer, matrix, expert, m) in matrices(table, name, info, role, &place)? {
                    if let Some(twice) =
                        found.entry((stack, layer)).or_default().kinds[matrix as usize].insert(expert, m)
                    {
                        let message = format!(
                            "expected to be the only `{}` of expert {expert} in layer {layer}, got it from tensor `{}`, too",
                            matrix.name(),
                            shown(&twice.place.tensor)
                        );
                        return Err(table.bad(name, message));
                    }
                }
            }
        }
    }
    let mut stacks: Vec<ExpertStack> = Vec::new();
    let later = &target.config.later;
    for ((stack, number), found) in found {
        if found.kinds.iter().all(BTreeMap::is_empty) {
            if let Some(place) = found.spectral.iter().flat_map(|s| s.values()).next() {
                let message = format!("expected experts in layer {number} for it, found none");
                return Err(target.files[place.file].bad(&place.tensor, message));
            }
            coverage.other += usize::from(found.router.is_some());
            continue;
        }
        let layer = checked(target, number, found)?;
        coverage.matrices += 3 * layer.experts;
        coverage.routers += usize::from(layer.has_router());
        let is_later = later.contains(&(number as u64));
        let name = if is_later { format!("{stack} (mtp, from layer {})", later.start) } else { stack.to_owned() };
        if stacks.last().is_none_or(|last| last.name != name) {
            stacks.push(ExpertStack { name, layers: Vec::new() });
        }
        // Just made, where there was none.
        let Some(ExpertStack { layers, .. }) = stacks.last_mut() else { continue };
        if let Some(first) = layers.first().filter(|l| l.d_model != layer.d_model) {
            let place = &layer.places[0][0];
            let message = format!(
                "expected the model width {} that layer {} has, got {}",
                first.d_model, first.number, layer.d_model
            );
            return Err(target.files[place.file].bad(&place.tensor, message));
        }
        layers.push(layer);
    }
    // Of equals the first by name.
    stacks.sort_by_key(|stack| (beside_model(&stack.name), Reverse(stack.layers.len())));
    Ok((stacks, coverage))
}

/// Refuses types that cannot be read and sizes of zero.
fn readable(table: &TensorTable, name: &str, info: &TensorInfo) -> Result<()> {
    if Element::of(info.dtype).is_none() {
        return Err(table.bad(name, format!("expected F32, F16 or BF16, got {}", info.dtype)));
    }
    if info.shape.contains(&0) {
        return Err(table.bad(name, format!("expected sizes of at least 1, got shape {:?}", info.shape)));
    }
    Ok(())
}

/// The matrices within one tensor: layer, kind, expert, matrix.
fn matrices(
    table: &TensorTable,
    name: &str,
    info: &TensorInfo,
    role: Role,
    place: &dyn Fn(usize) -> Place,
) -> Result<Vec<(usize, ExpertMatrix, usize, Matrix)>> {
    use ExpertMatrix::{Down, Gate, Up};
    let bad = |wanted: &str| Err(table.bad(name, format!("expected shape {wanted}, got {:?}", info.shape)));
    let transposed = !matches!(role, Role::Stack { .. });
    let matrix = |first, rows, columns| {
        let shape = if transposed { [columns, rows] } else { [rows, columns] };
        Matrix { place: place(first), shape, transposed }
    };
    if let Role::Expert { layer, matrix: kind, expert } = role {
        return match info.shape[..] {
            [out, into] => Ok(vec![(layer, kind, expert, matrix(0, out, into))]),
            _ => bad("[out, in]"),
        };
    }
    let (layer, kinds, wanted): (_, &[ExpertMatrix], _) = match role {
        Role::Stack { layer, matrix: Gate } => (layer, &[Gate], "[experts, in, out]"),
        Role::Stack { layer, matrix: Up } => (layer, &[Up], "[experts, in, out]"),
        Role::Stack { layer, matrix: Down } => (layer, &[Down], "[experts, in, out]"),
        Role::FusedDown { layer } => (layer, &[Down], "[experts, d, f]"),
        Role::FusedGateUp { layer } => (layer, &[Gate, Up], "[experts, 2 f, d]"),
        _ => return Ok(Vec::new()),
    };
    match info.shape[..] {
        [experts, rows, columns] if rows % kinds.len() == 0 => {
            if experts > MAX_EXPERTS {
                return bad(&format!("{wanted} with at most {MAX_EXPERTS} experts"));
            }
            let rows = rows / kinds.len();
            let all = (0..experts).flat_map(|e| kinds.iter().enumerate().map(move |(i, &kind)| (e, i, kind)));
            Ok(all
                .map(|(e, i, kind)| (layer, kind, e, matrix((e * kinds.len() + i) * rows * columns, rows, columns)))
                .collect())
        }
        _ => bad(wanted),
    }
}

/// A layer whose parts are all there and fit each other.
fn checked(target: &Target, number: usize, found: Found) -> Result<ExpertLayer> {
    let fault = |place: &Place, message: String| Err(target.files[place.file].bad(&place.tensor, message));
    let Some((kind, Some(&highest))) = (ExpertMatrix::ALL.into_iter().zip(&found.kinds))
        .map(|(kind, of)| (kind, of.keys().next_back()))
        .max_by_key(|(_, highest)| *highest)
    else {
        return Err(Error::checkpoint(&target.root, format!("layer {number}: expected experts, found none")));
    };
    for (matrix, of) in ExpertMatrix::ALL.into_iter().zip(&found.kinds) {
        let missing = of.keys().enumerate().find(|(i, e)| i != *e).map_or(of.len(), |(i, _)| i);
        if missing <= highest {
            let there = shown(&found.kinds[kind as usize][&highest].place.tensor);
            let hint = target.part.as_ref().map_or(String::new(), |part| format!(" ({part}: give their folder)"));
            let message = format!(
                "layer {number}: expected `{}` of expert {missing}, because there is tensor `{there}`, found none{hint}",
                matrix.name(),
            );
            return Err(Error::checkpoint(&target.root, message));
        }
    }
    let experts = highest + 1;
    let first = &found.kinds[ExpertMatrix::Gate as usize][&0];
    let [d, f] = first.shape;
    for (matrix, of) in ExpertMatrix::ALL.into_iter().zip(&found.kinds) {
        let wanted = if matrix == ExpertMatrix::Down { [f, d] } else { [d, f] };
        for m in of.values() {
            if m.shape != wanted || m.transposed != first.transposed {
                let show = |[into, out]: [usize; 2]| format!("{into} inputs and {out} outputs");
                return fault(
                    &m.place,
                    format!(
                        "expected {}, to fit tensor `{}`, got {}",
                        show(wanted),
                        shown(&first.place.tensor),
                        show(m.shape)
                    ),
                );
            }
        }
    }
    if let Some((place, own)) = &found.router {
        let wanted = if *own { [d, experts] } else { [experts, d] };
        let table = &target.files[place.file];
        if let Some(info) = table.info(&place.tensor) {
            readable(table, &place.tensor, info)?;
            if info.shape != wanted {
                let message = format!("expected shape {wanted:?}, to fit {experts} experts, got {:?}", info.shape);
                return fault(place, message);
            }
        }
    }
    let transposed = first.transposed;
    let mut spectral = [const { None }; 3];
    for (matrix, places) in ExpertMatrix::ALL.into_iter().zip(&found.spectral) {
        let [m, n] = if matrix == ExpertMatrix::Down { [f, d] } else { [d, f] };
        spectral[matrix as usize] =
            spectral_places(target, format_args!("spectral.{}.{number}", matrix.name()), places, m, n)?;
    }
    let bytes = |place: &Place| {
        let info = target.files[place.file].info(&place.tensor);
        info.and_then(|i| Element::of(i.dtype)).map_or(0, |e| (e.bytes() * d * f) as u64)
    };
    let bytes = ExpertMatrix::ALL.map(|matrix| found.kinds[matrix as usize].values().map(|m| bytes(&m.place)).sum());
    let places = found.kinds.map(|of| of.into_values().map(|m| m.place).collect());
    Ok(ExpertLayer {
        number,
        experts,
        d_model: d,
        d_expert: f,
        transposed,
        places,
        router: found.router,
        spectral,
        bytes,
    })
}

/// All three parts, with shapes that fit, or none. A leading 1 is not stored (`SpectralStack::state`).
fn spectral_places(
    target: &Target,
    prefix: impl Display,
    found: &BTreeMap<u8, Place>,
    m: usize,
    n: usize,
) -> Result<Option<SpectralPlaces>> {
    if found.is_empty() {
        return Ok(None);
    }
    let part = |part: SpectralPart, name: &str| {
        let missing = || Error::checkpoint(&target.root, format!("tensor `{prefix}.{name}`: expected one, found none"));
        found.get(&(part as u8)).cloned().ok_or_else(missing)
    };
    let common = part(SpectralPart::Common, "w_c")?;
    let (u, v) = (part(SpectralPart::U, "u")?, part(SpectralPart::V, "v")?);
    let shape = |place: &Place| target.files[place.file].info(&place.tensor).map_or(&[][..], |info| &info.shape);
    let rank = shape(&u).last().copied().unwrap_or(0);
    for (place, wanted) in [(&common, &[m, n][..]), (&u, &[m, rank]), (&v, &[n, rank])] {
        let (got, short) = (shape(place), wanted.strip_prefix(&[1]).unwrap_or(wanted));
        if got != wanted && got != short {
            let message = format!("expected shape {wanted:?}, got {got:?}");
            return Err(target.files[place.file].bad(&place.tensor, message));
        }
    }
    Ok(Some(SpectralPlaces { rank, common, u, v }))
}
