//! A launch that was kept, see `capture`.

use super::Kernel;
use super::pool::BufferSlice;

/// A launch.
#[derive(Debug)]
pub(crate) struct Captured {
    pub kernel: &'static Kernel,
    /// Override constants, those of the kernel left out.
    pub constants: Vec<(&'static str, f64)>,
    /// The variables that are bound to f16.
    pub half: Vec<&'static str>,
    /// The parameters.
    pub params: Option<Vec<u8>>,
    pub groups: [u32; 3],
    /// The buffers: the variable's name, what it held before, and afterwards where the kernel can write it.
    pub buffers: Vec<(String, BufferSlice, Option<BufferSlice>)>,
}
