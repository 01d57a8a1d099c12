//! All that exists for software adapters alone: Vulkan drivers that compute on the processor, as llvmpipe and SwiftShader do.
//!
//! Such a driver runs the lanes of a subgroup as one vector of the processor. Broadcasts are moves between registers, a
//! barrier is slow, a load costs by its number of components, and a core has a cache of its own. The kernels here are made
//! for that; a GPU runs them only where `--tier software` asks for it. Their WGSL is in `shaders/software/`.

pub mod attention;
pub(crate) mod limits;
pub(crate) mod loads;
mod pad;
pub(in crate::low_level::kernels) mod product;
pub mod spectral_rows;
pub(in crate::low_level::kernels) mod subgroup;
