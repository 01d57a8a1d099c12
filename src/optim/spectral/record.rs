//! The measurements of a refresh, on the device and read back, each row by its name.

use std::marker::PhantomData;

use crate::error::{Error, Result};
use crate::gpu::{Gpu, Readback};
use crate::tensor::{DType, Tensor};

/// The measurements of a refresh before it turns the bases; zeros until the first one.
#[derive(Clone, Debug)]
pub struct RefreshRecord {
    /// Squared norms that say how far `W_u` has drifted into the old bases, for each layer and expert.
    pub(super) drift: Rows<DriftRow>,
    /// Squared norms of the experts' gradients, for each layer and expert; zero in the token-space form.
    pub(super) share: Rows<ShareRow>,
    /// Squared norm of `W_c`, `[layers]`.
    pub energy: Tensor,
    /// Leading singular values of `W_c`, `[layers, l]`, l >= k.
    pub singular: Tensor,
    /// Principal angles of old and new bases, rising, k for each layer.
    pub(super) angles: Rows<AngleRow>,
}

/// The rows of the drift.
#[derive(Clone, Copy, Debug)]
pub(super) enum DriftRow {
    /// `|U^T W_u,i|^2`.
    Left,
    /// `|W_u,i V|^2`.
    Right,
    /// `|W_u,i|^2`.
    Whole,
}

/// The rows of the gradient's share.
#[derive(Clone, Copy, Debug)]
pub(super) enum ShareRow {
    /// `|G_i|^2`.
    Whole,
    /// The squared norm of the common part of `G_i`.
    Common,
}

/// The rows of the principal angles.
#[derive(Clone, Copy, Debug)]
pub(super) enum AngleRow {
    /// Between old and new *U*.
    Left,
    /// Between old and new *V*.
    Right,
}

/// The names of the rows of a tensor; a row's name in a checkpoint is its index.
pub(super) trait RowName: Copy {
    /// The number of rows.
    const COUNT: usize;

    /// The row's index.
    fn index(self) -> usize;
}

impl RowName for DriftRow {
    const COUNT: usize = 3;

    fn index(self) -> usize {
        self as usize
    }
}

impl RowName for ShareRow {
    const COUNT: usize = 2;

    fn index(self) -> usize {
        self as usize
    }
}

impl RowName for AngleRow {
    const COUNT: usize = 2;

    fn index(self) -> usize {
        self as usize
    }
}

/// A small tensor `[rows, layers, width]` whose rows are named by `R`.
#[derive(Clone, Debug)]
pub(super) struct Rows<R> {
    /// All rows.
    pub(super) all: Tensor,
    names: PhantomData<R>,
}

impl<R: RowName> Rows<R> {
    fn around(all: Tensor) -> Self {
        Self { all, names: PhantomData }
    }

    /// Rows of zeros that stay.
    fn persistent(gpu: &Gpu, layers: usize, width: usize) -> Result<Self> {
        Ok(Self::around(Tensor::persistent(gpu, [R::COUNT, layers, width], DType::F32)?))
    }

    /// Rows of that shape in a buffer of their own, holding anything.
    pub(super) fn empty_like(&self) -> Result<Self> {
        Ok(Self::around(Tensor::empty_f32(self.all.gpu(), self.all.shape())?))
    }

    /// Rows of that shape in a buffer of their own, all zero.
    pub(super) fn zeros_like(&self) -> Result<Self> {
        Ok(Self::around(Tensor::zeros(self.all.gpu(), self.all.shape())?))
    }

    /// Records that `row` becomes `x`, of `layers * width` elements.
    pub(super) fn set(&self, row: R, x: &Tensor) -> Result<()> {
        let i = row.index();
        self.all.slice(i..i + 1)?.copy_from(x)
    }

    /// All rows of layer `layer`, `[width]` each, in the order of their indices.
    pub(super) fn of_layer(&self, layer: usize) -> Result<Vec<Tensor>> {
        let &[_, layers, width] = self.all.dims() else { return Ok(Vec::new()) };
        let row =
            |j: usize| self.all.slice(j..j + 1)?.reshape([layers, width])?.slice(layer..layer + 1)?.reshape([width]);
        (0..R::COUNT).map(row).collect()
    }

    /// Starts reading all rows.
    pub(super) fn read(&self) -> Result<PendingRows<R>> {
        let layers = self.all.dims()[1];
        Ok(PendingRows { readback: self.all.read()?, layers, width: self.all.cols(), names: PhantomData })
    }
}

/// Named rows on their way from the device.
#[derive(Debug)]
pub(super) struct PendingRows<R> {
    readback: Readback,
    layers: usize,
    width: usize,
    names: PhantomData<R>,
}

impl<R: RowName> PendingRows<R> {
    /// The rows.
    pub(super) async fn arrive(self) -> Result<HostRows<R>> {
        let values = floats(self.readback).await?;
        Ok(HostRows { values, layers: self.layers, width: self.width, names: PhantomData })
    }
}

/// Named rows in host memory.
#[derive(Debug)]
pub(super) struct HostRows<R> {
    values: Vec<f64>,
    layers: usize,
    width: usize,
    names: PhantomData<R>,
}

impl<R: RowName> HostRows<R> {
    /// Returns the `width` numbers that `row` has of layer `layer`.
    pub(super) fn get(&self, row: R, layer: usize) -> &[f64] {
        let first = (row.index() * self.layers + layer) * self.width;
        &self.values[first..first + self.width]
    }
}

impl RefreshRecord {
    /// A record of zeros for `experts` experts in each of `layers` layers, `singular` singular values and `rank` angles a layer.
    pub(super) fn zeroed(gpu: &Gpu, layers: usize, experts: usize, singular: usize, rank: usize) -> Result<Self> {
        Ok(Self {
            drift: Rows::persistent(gpu, layers, experts)?,
            share: Rows::persistent(gpu, layers, experts)?,
            energy: Tensor::persistent(gpu, [layers], DType::F32)?,
            singular: Tensor::persistent(gpu, [layers, singular], DType::F32)?,
            angles: Rows::persistent(gpu, layers, rank)?,
        })
    }

    /// Starts reading the record.
    pub(super) fn read(&self) -> Result<PendingRecord> {
        Ok(PendingRecord {
            drift: self.drift.read()?,
            share: self.share.read()?,
            energy: self.energy.read()?,
            singular: self.singular.read()?,
            found: self.singular.cols(),
            angles: self.angles.read()?,
        })
    }
}

/// A [`RefreshRecord`] on its way from the device.
#[derive(Debug)]
pub(super) struct PendingRecord {
    drift: PendingRows<DriftRow>,
    share: PendingRows<ShareRow>,
    energy: Readback,
    singular: Readback,
    /// Singular values of a layer.
    found: usize,
    angles: PendingRows<AngleRow>,
}

impl PendingRecord {
    /// The record.
    pub(super) async fn arrive(self) -> Result<HostRecord> {
        Ok(HostRecord {
            drift: self.drift.arrive().await?,
            share: self.share.arrive().await?,
            energy: floats(self.energy).await?,
            singular: floats(self.singular).await?,
            found: self.found,
            angles: self.angles.arrive().await?,
        })
    }
}

/// A [`RefreshRecord`] in host memory.
#[derive(Debug)]
pub(super) struct HostRecord {
    pub(super) drift: HostRows<DriftRow>,
    pub(super) share: HostRows<ShareRow>,
    energy: Vec<f64>,
    singular: Vec<f64>,
    found: usize,
    angles: HostRows<AngleRow>,
}

impl HostRecord {
    /// Squared norm of `W_c` of layer `layer`.
    pub(super) fn energy(&self, layer: usize) -> f64 {
        self.energy[layer]
    }

    /// The singular values of layer `layer`, falling; none before the first refresh.
    pub(super) fn singular(&self, layer: usize) -> Option<&[f64]> {
        let values = &self.singular[layer * self.found..(layer + 1) * self.found];
        values.first().is_some_and(|&s| s > 0.0).then_some(values)
    }

    /// The largest principal angle of layer `layer` between old and new bases, both sides taken together, in radians.
    pub(super) fn largest_angle(&self, layer: usize) -> f64 {
        let largest = |row| self.angles.get(row, layer).iter().copied().fold(0.0, f64::max);
        largest(AngleRow::Left).max(largest(AngleRow::Right))
    }
}

/// The elements of an f32 tensor in f64.
///
/// # Errors
/// [`Error::Undefined`] for the first one that is not finite; [`Error::Device`].
pub(super) async fn floats(readback: Readback) -> Result<Vec<f64>> {
    let values: Vec<f32> = bytemuck::pod_collect_to_vec(&readback.await?);
    Error::unless_finite("spectral metrics", &values)?;
    Ok(values.into_iter().map(f64::from).collect())
}
