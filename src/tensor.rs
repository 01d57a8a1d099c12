//! [`Tensor`]: a cheap handle to a row-major array on the device, its [`Shape`], and the way to the host and back.
//!
//! A tensor does no arithmetic; `kernels`, `ops` and `linalg` do.

use std::fmt;
use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use half::vec::HalfFloatVecExt;

use crate::error::{Error, Result};
pub use crate::gpu::DType;
use crate::gpu::{Bound, BufferSlice, Gpu, Readback};

/// The number of dimensions that a tensor can have.
const MOST_DIMS: usize = 4;

/// Sizes of up to four dimensions, outermost first. A shape made of a slice with more can be made, and no tensor has
/// it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    dims: [usize; MOST_DIMS],
    /// More than [`MOST_DIMS`] where some were left out of `dims`.
    rank: usize,
}

impl Shape {
    /// The sizes.
    pub fn dims(&self) -> &[usize] {
        &self.dims[..self.rank.min(MOST_DIMS)]
    }

    /// Product of the sizes; 1 for a scalar.
    pub fn numel(&self) -> usize {
        self.dims().iter().product()
    }

    /// Refuses a shape of more than four dimensions.
    fn check(self, op: &'static str) -> Result<Self> {
        if self.rank > MOST_DIMS {
            return Err(Error::shape(
                op,
                format!("at most {MOST_DIMS} dimensions"),
                format!("{} dimensions", self.rank),
            ));
        }
        Ok(self)
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}

impl From<&[usize]> for Shape {
    fn from(dims: &[usize]) -> Self {
        let kept = dims.len().min(MOST_DIMS);
        let mut shape = Shape { dims: [1; MOST_DIMS], rank: dims.len() };
        shape.dims[..kept].copy_from_slice(&dims[..kept]);
        shape
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    /// An array of more than four sizes does not compile.
    fn from(dims: [usize; N]) -> Self {
        const { assert!(N <= MOST_DIMS, "a tensor has at most four dimensions") };
        dims.as_slice().into()
    }
}

impl From<&Vec<usize>> for Shape {
    fn from(dims: &Vec<usize>) -> Self {
        dims.as_slice().into()
    }
}

/// A row-major array on a device. Cloning shares the buffer.
#[derive(Clone)]
pub struct Tensor {
    gpu: Gpu,
    slice: BufferSlice,
    shape: Shape,
    dtype: DType,
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor<{:?}>{:?}", self.dtype, self.shape)
    }
}

impl From<&Tensor> for BufferSlice {
    fn from(tensor: &Tensor) -> Self {
        tensor.slice.clone()
    }
}

impl From<&Tensor> for Bound {
    fn from(tensor: &Tensor) -> Self {
        Bound { slice: tensor.slice.clone(), dtype: Some(tensor.dtype) }
    }
}

/// Bytes of a tensor.
fn size(gpu: &Gpu, shape: Shape, dtype: DType) -> Result<u64> {
    if dtype == DType::F16 {
        gpu.require_f16()?;
    }
    let bytes = shape
        .check("tensor")?
        .dims()
        .iter()
        .try_fold(dtype.bytes() as u64, |bytes, &size| bytes.checked_mul(size as u64));
    bytes.ok_or_else(|| Error::shape("tensor", "fewer than 2^64 bytes", format!("{shape:?}")))
}

impl Tensor {
    /// A tensor with unspecified content, from the pool.
    ///
    /// # Errors
    /// [`Error::Device`] when it exceeds the adapter's largest buffer, or when the adapter lacks f16 for an f16 tensor;
    /// [`Error::Shape`] when its size cannot be counted, or it has more than four dimensions.
    pub fn empty(gpu: &Gpu, shape: impl Into<Shape>, dtype: DType) -> Result<Self> {
        let shape = shape.into();
        let size = size(gpu, shape, dtype)?;
        let slice = BufferSlice { buffer: gpu.allocate(size)?, offset: 0, size };
        Ok(Self { gpu: gpu.clone(), slice, shape, dtype })
    }

    /// An f32 tensor with unspecified content, from the pool.
    ///
    /// # Errors
    /// As [`Tensor::empty`].
    pub fn empty_f32(gpu: &Gpu, shape: impl Into<Shape>) -> Result<Self> {
        Self::empty(gpu, shape, DType::F32)
    }

    /// A u32 tensor with unspecified content, from the pool.
    ///
    /// # Errors
    /// As [`Tensor::empty`].
    pub fn empty_u32(gpu: &Gpu, shape: impl Into<Shape>) -> Result<Self> {
        Self::empty(gpu, shape, DType::U32)
    }

    /// A tensor of zeros, from the pool.
    ///
    /// # Errors
    /// As [`Tensor::empty`].
    pub fn zeros(gpu: &Gpu, shape: impl Into<Shape>) -> Result<Self> {
        let tensor = Self::empty_f32(gpu, shape)?;
        tensor.clear()?;
        Ok(tensor)
    }

    /// A tensor of zeros in a buffer of its own: parameters, optimizer state, whatever lives as long as the model.
    ///
    /// # Errors
    /// As [`Tensor::empty`].
    pub fn persistent(gpu: &Gpu, shape: impl Into<Shape>, dtype: DType) -> Result<Self> {
        let shape = shape.into();
        let size = size(gpu, shape, dtype)?;
        let slice = BufferSlice { buffer: gpu.allocate_persistent(size)?, offset: 0, size };
        Ok(Self { gpu: gpu.clone(), slice, shape, dtype })
    }

    /// A pooled f32 tensor with `data`.
    ///
    /// # Errors
    /// [`Error::Shape`] when `data` does not fill `shape`.
    pub fn from_f32(gpu: &Gpu, shape: impl Into<Shape>, data: &[f32]) -> Result<Self> {
        let tensor = Self::empty_f32(gpu, shape)?;
        tensor.write_f32(data)?;
        Ok(tensor)
    }

    /// A pooled u32 tensor with `data`.
    ///
    /// # Errors
    /// [`Error::Shape`] when `data` does not fill `shape`.
    pub fn from_u32(gpu: &Gpu, shape: impl Into<Shape>, data: &[u32]) -> Result<Self> {
        let tensor = Self::empty_u32(gpu, shape)?;
        tensor.write_u32(data)?;
        Ok(tensor)
    }

    /// Replaces the content; a tensor of 16 bits, which must not be a part of another if it has an odd number of elements, gets
    /// it rounded.
    ///
    /// # Errors
    /// [`Error::Shape`] when `data` does not fill the shape, the type differs, or a tensor of 16 bits begins within a word.
    pub fn write_f32(&self, data: &[f32]) -> Result<()> {
        let bits = match self.dtype {
            DType::F16 => {
                let mut half = vec![half::f16::ZERO; data.len()];
                half.convert_from_f32_slice(data);
                half.reinterpret_into()
            }
            DType::Bf16 => {
                let mut half = vec![half::bf16::ZERO; data.len()];
                half.convert_from_f32_slice(data);
                half.reinterpret_into()
            }
            DType::F32 | DType::U32 => {
                self.check_fill(data.len(), DType::F32)?;
                return self.gpu.write(&self.slice, bytemuck::cast_slice(data));
            }
        };
        self.write_bits(&bits)
    }

    /// Replaces the content of a tensor of 16 bits by numbers of its type. Writes are of whole words: with an odd number of
    /// elements the one behind is overwritten too.
    ///
    /// # Errors
    /// [`Error::Shape`] when `bits` do not fill the shape, the type has not 16 bits, or the tensor begins within a word.
    pub(crate) fn write_bits(&self, bits: &[u16]) -> Result<()> {
        if self.dtype.bytes() != 2 || bits.len() != self.numel() {
            return Err(Error::shape("write", format!("{self:?}"), format!("{} elements of 16 bits", bits.len())));
        }
        if !self.slice.offset.is_multiple_of(4) {
            let place = format!("byte {} of a buffer", self.slice.offset);
            return Err(Error::shape("write", "a tensor that begins with a word of 4 bytes", place));
        }
        if bits.len().is_multiple_of(2) {
            return self.gpu.write(&self.slice, bytemuck::cast_slice(bits));
        }
        let padded = [bits, &[0]].concat();
        let slice = BufferSlice { size: self.slice.size + 2, ..self.slice.clone() };
        self.gpu.write(&slice, bytemuck::cast_slice(&padded))
    }

    /// Replaces the content.
    ///
    /// # Errors
    /// [`Error::Shape`] when `data` does not fill the shape or the type differs.
    pub fn write_u32(&self, data: &[u32]) -> Result<()> {
        self.check_fill(data.len(), DType::U32)?;
        self.gpu.write(&self.slice, bytemuck::cast_slice(data))
    }

    fn check_fill(&self, len: usize, dtype: DType) -> Result<()> {
        if len != self.numel() || dtype != self.dtype {
            return Err(Error::shape("write", format!("{self:?}"), format!("{len} elements of {dtype:?}")));
        }
        Ok(())
    }

    /// Where the elements lie: a wgpu buffer ([`Buffer::raw`](crate::gpu::Buffer::raw)), the first byte in it and the
    /// number of bytes, for an application that draws from it, or computes with it, on the same device without a copy.
    ///
    /// Elements are row-major without padding, f32 and u32 in 4 bytes, f16 and bf16 in 2; nothing lies between two of them. The
    /// buffer has the usages `STORAGE`, `COPY_SRC` and `COPY_DST` and those of
    /// [`GpuOptions::buffer_usages`](crate::GpuOptions::buffer_usages). What is recorded reaches the queue with
    /// [`Gpu::flush`]: call it before the application submits work that reads the tensor, and submit work that writes
    /// it before anything is recorded that reads it. A tensor that is not persistent gives its buffer back to the pool
    /// when its last handle is dropped, so keep a handle until the application's work is submitted.
    pub fn buffer(&self) -> &BufferSlice {
        &self.slice
    }

    /// The device it lives on.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// The sizes, outermost first.
    pub fn dims(&self) -> &[usize] {
        self.shape.dims()
    }

    /// The shape.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.shape.numel()
    }

    /// Bytes.
    pub fn bytes(&self) -> u64 {
        self.slice.size
    }

    /// Size of the last dimension; 1 for a scalar.
    pub fn cols(&self) -> usize {
        self.dims().last().copied().unwrap_or(1)
    }

    /// Product of all dimensions but the last.
    pub fn rows(&self) -> usize {
        self.dims().split_last().map_or(1, |(_, outer)| outer.iter().product())
    }

    /// Returns a view of the same elements in another shape.
    ///
    /// # Errors
    /// [`Error::Shape`] when the number of elements differs, or the new shape has more than four dimensions.
    pub fn reshape(&self, shape: impl Into<Shape>) -> Result<Self> {
        let shape = shape.into().check("reshape")?;
        if shape.numel() != self.numel() {
            return Err(Error::shape("reshape", format!("{} elements", self.numel()), format!("{shape:?}")));
        }
        Ok(Self { shape, ..self.clone() })
    }

    /// A view of a range of the outermost dimension.
    ///
    /// # Errors
    /// [`Error::Shape`] when the range leaves the tensor.
    pub fn slice(&self, range: Range<usize>) -> Result<Self> {
        let outer = self.dims().first().copied().unwrap_or(1);
        if range.start > range.end || range.end > outer {
            return Err(Error::shape("slice", format!("a range within 0..{outer}"), format!("{range:?}")));
        }
        let inner: usize = self.dims().iter().skip(1).product();
        let mut shape = self.shape;
        shape.dims[0] = range.len();
        let mut slice = self.slice.clone();
        let row = inner * self.dtype.bytes();
        slice.offset += (range.start * row) as u64;
        slice.size = (range.len() * row) as u64;
        Ok(Self { gpu: self.gpu.clone(), slice, shape, dtype: self.dtype })
    }

    /// Records that every element becomes zero.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn clear(&self) -> Result<()> {
        if self.slice.size == 0 { Ok(()) } else { self.gpu.clear(&self.slice) }
    }

    /// Records a copy of `source`'s elements, of the same type, into this tensor. Copies are of whole words: with an
    /// odd number of f16 the element behind is overwritten too.
    ///
    /// # Errors
    /// [`Error::Shape`] when the numbers of elements or the types differ.
    pub fn copy_from(&self, source: &Tensor) -> Result<()> {
        if source.dtype != self.dtype {
            return Err(Error::shape("copy", format!("{self:?}"), format!("{source:?}")));
        }
        self.gpu.copy(&source.slice, &self.slice)
    }

    /// A copy in a pooled buffer of its own.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn duplicate(&self) -> Result<Self> {
        let copy = Self::empty(&self.gpu, self.shape, self.dtype)?;
        copy.copy_from(self)?;
        Ok(copy)
    }

    /// Whether no other handle shares the buffer.
    pub(crate) fn is_unique(&self) -> bool {
        std::sync::Arc::strong_count(&self.slice.buffer) == 1
    }

    /// Starts reading the content back.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn read(&self) -> Result<Readback> {
        self.gpu.read(&self.slice)
    }

    /// The content; of a tensor of 16 bits, widened.
    ///
    /// # Errors
    /// [`Error::Device`]; [`Error::Shape`] when the tensor is of indices.
    pub async fn to_f32(&self) -> Result<Vec<f32>> {
        if self.dtype.bytes() == 2 && self.numel() > 0 {
            // A part of a tensor can begin within a word.
            let before = self.slice.offset % 4;
            let slice = BufferSlice {
                offset: self.slice.offset - before,
                size: self.slice.size + before,
                ..self.slice.clone()
            };
            let bytes = self.gpu.read(&slice)?.await?;
            let f16 = self.dtype == DType::F16;
            let wide = |pair: &[u8; 2]| {
                if f16 { half::f16::from_le_bytes(*pair).to_f32() } else { half::bf16::from_le_bytes(*pair).to_f32() }
            };
            return Ok(bytes[before as usize..].as_chunks::<2>().0.iter().map(wide).collect());
        }
        if self.numel() == 0 && self.dtype != DType::U32 {
            return Ok(Vec::new());
        }
        self.expect_dtype(DType::F32)?;
        Ok(bytemuck::pod_collect_to_vec(&self.read()?.await?))
    }

    /// The content.
    ///
    /// # Errors
    /// [`Error::Device`]; [`Error::Shape`] when the tensor is not u32.
    pub async fn to_u32(&self) -> Result<Vec<u32>> {
        self.expect_dtype(DType::U32)?;
        if self.numel() == 0 {
            return Ok(Vec::new());
        }
        Ok(bytemuck::pod_collect_to_vec(&self.read()?.await?))
    }

    fn expect_dtype(&self, dtype: DType) -> Result<()> {
        if self.dtype == dtype { Ok(()) } else { Err(Error::shape("read", format!("{dtype:?}"), format!("{self:?}"))) }
    }
}
