//! The device that an application opens for itself and for this crate, and what one that it has lacks.

use super::{Gpu, OPTIONAL_FEATURES};

/// The limits that more of serves this crate, as `(limit, of limits, what less costs)`.
type Wanted = (&'static str, fn(&wgpu::Limits) -> u64, &'static str);

const WANTED: [Wanted; 2] = [
    ("max_buffer_size", |limits| limits.max_buffer_size, "models and batches with a larger tensor do not fit"),
    (
        "max_storage_buffer_binding_size",
        |limits| limits.max_storage_buffer_binding_size,
        "larger tensors are computed in several launches",
    ),
];

/// Adds to the descriptor of a device that `host` wants what this crate can use of `adapter`: the features of
/// [`OPTIONAL_FEATURES`] and the limits that kernels and large tensors need, as far as the adapter has them. What the
/// host asks for stays as it is, also where the adapter lacks it.
pub fn device_descriptor<'a>(adapter: &wgpu::Adapter, host: wgpu::DeviceDescriptor<'a>) -> wgpu::DeviceDescriptor<'a> {
    let best = host.required_limits.clone().or_better_values_from(&adapter.limits());
    let required_limits = wgpu::Limits {
        max_buffer_size: best.max_buffer_size,
        max_storage_buffer_binding_size: best.max_storage_buffer_binding_size,
        max_storage_buffers_per_shader_stage: best.max_storage_buffers_per_shader_stage,
        max_uniform_buffers_per_shader_stage: best.max_uniform_buffers_per_shader_stage,
        max_dynamic_uniform_buffers_per_pipeline_layout: best.max_dynamic_uniform_buffers_per_pipeline_layout,
        max_uniform_buffer_binding_size: best.max_uniform_buffer_binding_size,
        max_bindings_per_bind_group: best.max_bindings_per_bind_group,
        max_compute_workgroup_storage_size: best.max_compute_workgroup_storage_size,
        max_compute_invocations_per_workgroup: best.max_compute_invocations_per_workgroup,
        max_compute_workgroup_size_x: best.max_compute_workgroup_size_x,
        max_compute_workgroup_size_y: best.max_compute_workgroup_size_y,
        max_compute_workgroup_size_z: best.max_compute_workgroup_size_z,
        max_compute_workgroups_per_dimension: best.max_compute_workgroups_per_dimension,
        ..host.required_limits
    };
    let required_features = host.required_features | (adapter.features() & OPTIONAL_FEATURES);
    wgpu::DeviceDescriptor { required_features, required_limits, ..host }
}

/// A feature or limit that the adapter has and the device was opened without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Missing {
    /// The feature or limit.
    pub part: MissingPart,
    /// The price of it, in words.
    pub costs: &'static str,
}

/// See [`Missing`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MissingPart {
    /// A feature.
    Feature(wgpu::Features),
    /// A limit, a field of [`wgpu::Limits`].
    Limit {
        /// Its name.
        name: &'static str,
        /// The device's.
        device: u64,
        /// The adapter's.
        adapter: u64,
    },
}

impl Gpu {
    /// Lists what this device was opened without although its `adapter` has it, and what that costs; nothing where it
    /// was opened with [`device_descriptor`]. A device does not tell what its adapter has.
    pub fn missing(&self, adapter: &wgpu::Adapter) -> Vec<Missing> {
        let left = adapter.features() - self.device().features();
        let feature = |(feature, costs): (wgpu::Features, &'static str)| {
            left.contains(feature).then_some(Missing { part: MissingPart::Feature(feature), costs })
        };
        let (device, adapter) = (self.device().limits(), adapter.limits());
        let limit = |&(name, of, costs): &Wanted| {
            let part = MissingPart::Limit { name, device: of(&device), adapter: of(&adapter) };
            (of(&device) < of(&adapter)).then_some(Missing { part, costs })
        };
        features(self.adapter().is_software())
            .into_iter()
            .filter_map(feature)
            .chain(WANTED.iter().filter_map(limit))
            .collect()
    }
}

/// The optional features with what their absence costs on such an adapter.
fn features(software: bool) -> Vec<(wgpu::Features, &'static str)> {
    let mut features = vec![
        (wgpu::Features::SHADER_F16, "no training in mixed precision (train.precision = \"f16\")"),
        (wgpu::Features::TIMESTAMP_QUERY, "kernels cannot be timed, and a budget goes by what the host sees"),
    ];
    if software {
        features.push((
            wgpu::Features::SUBGROUP,
            "the plain kernels instead of those for software drivers: a step takes several times as long",
        ));
        features.push((wgpu::Features::SHADER_INT64, "products load less at once and are slower"));
    }
    features
}
