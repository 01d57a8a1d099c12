//! The limits that the kernels need of a device, whatever their family: WebGPU's defaults suffice, less may not.

use super::command::SLOT;
use super::recorder::ARENA;

/// A limit with the least that it may be.
#[derive(Clone, Copy)]
pub struct Need {
    /// The limit, a field of [`wgpu::Limits`].
    pub limit: &'static str,
    /// The least that suffices.
    pub least: u64,
    of: fn(&wgpu::Limits) -> u64,
}

impl Need {
    /// Whether these limits suffice.
    pub fn met_by(&self, limits: &wgpu::Limits) -> bool {
        (self.of)(limits) >= self.least
    }
}

macro_rules! need {
    ($limit:ident, $least:expr) => {
        Need { limit: stringify!($limit), least: $least, of: |limits| u64::from(limits.$limit) }
    };
}

/// All of them. Those of shaders suffice for the whole kernel list and are no more than WebGPU promises, to which
/// `tests/it/shaders.rs` holds them.
pub const NEEDS: [Need; 11] = [
    need!(max_storage_buffers_per_shader_stage, 8),
    need!(max_compute_invocations_per_workgroup, 256),
    need!(max_compute_workgroup_size_x, 256),
    need!(max_compute_workgroup_storage_size, 16384),
    need!(max_bindings_per_bind_group, 10),
    // Parameters lie in slots of one uniform buffer.
    need!(max_uniform_buffers_per_shader_stage, 1),
    need!(max_dynamic_uniform_buffers_per_pipeline_layout, 1),
    need!(max_uniform_buffer_binding_size, SLOT),
    need!(max_buffer_size, ARENA),
    // Tensors are processed in slices, which hold some rows of any model.
    need!(max_storage_buffer_binding_size, 1 << 16),
    // Grids have two dimensions.
    need!(max_compute_workgroups_per_dimension, 256),
];

/// The first need that `limits` do not meet, in words; none where all are met.
pub(super) fn lacks(limits: &wgpu::Limits) -> Option<String> {
    let (Need { limit, least, .. }, has) = unmet(limits)?;
    Some(format!("{limit} of at least {least}, it has {has}"))
}

/// The first need that `limits` do not meet, and what they give; none where all are met.
pub(super) fn unmet(limits: &wgpu::Limits) -> Option<(Need, u64)> {
    let need = NEEDS.iter().find(|need| !need.met_by(limits))?;
    Some((*need, (need.of)(limits)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_limit_that_does_not_suffice_is_named() {
        assert_eq!(lacks(&wgpu::Limits::defaults()), None);
        let four = wgpu::Limits { max_storage_buffers_per_shader_stage: 4, ..wgpu::Limits::defaults() };
        assert_eq!(lacks(&four).unwrap(), "max_storage_buffers_per_shader_stage of at least 8, it has 4");
        let small = wgpu::Limits { max_compute_invocations_per_workgroup: 128, ..wgpu::Limits::defaults() };
        assert_eq!(lacks(&small).unwrap(), "max_compute_invocations_per_workgroup of at least 256, it has 128");
        let down = lacks(&wgpu::Limits::downlevel_defaults()).unwrap();
        assert!(down.starts_with("max_storage_buffers_per_shader_stage "), "{down}");
        assert!(lacks(&wgpu::Limits::downlevel_webgl2_defaults()).is_some());
    }
}
