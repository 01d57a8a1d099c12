//! The parameters of a model before their buffers are made: what layers ask for, and how it is laid out.

use super::{Frequencies, Group, GroupBuffers, Init, Param, ParamId, ParamSet, RotaryId, StateId};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::nn::config::Precision;
use crate::nn::size::mib;
use crate::tensor::{DType, Tensor};

/// Weights, gradient and f16 copy of one parameter.
type Views = (Tensor, Tensor, Option<Tensor>);

/// Collects names and shapes before the buffers are made.
#[derive(Debug, Default)]
pub struct ParamBuilder {
    entries: Vec<Entry>,
    state: Vec<(String, Vec<usize>)>,
    rotary: Vec<Frequencies>,
    expert_layers: Vec<usize>,
}

#[derive(Debug)]
struct Entry {
    name: String,
    group: Group,
    shape: Vec<usize>,
    init: Init,
    hidden: bool,
}

impl Entry {
    /// The type in which a device holds it, for inference alone, where `wanted` is asked for; `f16` says whether it has that.
    fn dtype(&self, wanted: DType, f16: bool) -> Result<DType> {
        match wanted {
            DType::U32 => Err(Error::config(&self.name, "expected weights in f32, f16 or bf16, got u32")),
            DType::F16 if !f16 => Ok(DType::F32),
            dtype if self.group != Group::NoDecay && in_fours(&self.shape) => Ok(dtype),
            _ => Ok(DType::F32),
        }
    }

    /// Fails where a buffer of `largest` bytes does not hold it in `dtype`.
    fn fits(&self, dtype: DType, largest: u64) -> Result<()> {
        let Self { name, shape, .. } = self;
        let bytes = shape.iter().fold(dtype.bytes() as u128, |product, &size| product * size as u128);
        if bytes <= u128::from(largest) {
            return Ok(());
        }
        let (bytes, largest) = (mib(bytes), mib(u128::from(largest)));
        let message =
            format!("{shape:?} in {dtype:?} takes {bytes} in one buffer; the adapter's largest has {largest}");
        Err(Error::config(name, message))
    }
}

impl ParamBuilder {
    /// Adds a parameter. Its `name` is the one in checkpoints. It is [`Param::hidden`] where it belongs to experts.
    pub fn add(&mut self, name: impl Into<String>, group: Group, shape: &[usize], init: Init) -> ParamId {
        let hidden = matches!(group, Group::Experts(_));
        self.entries.push(Entry { name: name.into(), group, shape: shape.to_vec(), init, hidden });
        ParamId(self.entries.len() - 1)
    }

    /// Adds a matrix `[in, out]` between hidden layers ([`Param::hidden`]), which decays.
    pub fn add_hidden(&mut self, name: impl Into<String>, shape: [usize; 2], init: Init) -> ParamId {
        let entry = Entry { name: name.into(), group: Group::Decay, shape: shape.to_vec(), init, hidden: true };
        self.entries.push(entry);
        ParamId(self.entries.len() - 1)
    }

    /// Says which of the model's layers have experts, in ascending order: their numbers in names and reports. Without it they are
    /// numbered among themselves.
    pub fn number_expert_layers(&mut self, layers: Vec<usize>) {
        self.expert_layers = layers;
    }

    /// Adds an f32 tensor beside the parameters that belongs into checkpoints, such as a bias that balancing moves. It starts
    /// with zeros.
    pub fn add_state(&mut self, name: impl Into<String>, shape: &[usize]) -> StateId {
        self.state.push((name.into(), shape.to_vec()));
        StateId(self.state.len() - 1)
    }

    /// Adds the rotary positions of a layer; the same ones are kept once.
    pub fn add_rotary(&mut self, frequencies: Frequencies) -> RotaryId {
        let known = self.rotary.iter().position(|known| *known == frequencies);
        RotaryId(known.unwrap_or_else(|| {
            self.rotary.push(frequencies);
            self.rotary.len() - 1
        }))
    }

    /// Names and shapes of the parameters that were added, in order.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.entries.iter().map(|entry| (entry.name.as_str(), entry.shape.as_slice()))
    }

    /// Names, shapes and types of the parameters as [`ParamBuilder::build_for_inference_in`] makes them, on a device with f16.
    ///
    /// # Errors
    /// [`Error::Config`] for a type that weights do not have.
    pub(crate) fn shapes_for_inference(
        self,
        dtype: impl Fn(&str) -> DType,
    ) -> Result<Vec<(String, Vec<usize>, DType)>> {
        let typed = |entry: Entry| {
            let dtype = entry.dtype(dtype(&entry.name), true)?;
            Ok((entry.name, entry.shape, dtype))
        };
        self.entries.into_iter().map(typed).collect()
    }

    /// Names and shapes of the tensors beside the parameters, in order.
    pub fn state_shapes(&self) -> &[(String, Vec<usize>)] {
        &self.state
    }

    /// Makes the buffers in f32, zeroed.
    ///
    /// # Errors
    /// [`Error::Device`] when a group exceeds the adapter's largest buffer; [`Error::Shape`] when the matrices of an expert group
    /// differ in shape.
    pub fn build(self, gpu: &Gpu) -> Result<ParamSet> {
        self.build_for(gpu, Precision::F32)
    }

    /// As [`ParamBuilder::build`] without gradients, which take as much memory as the weights: for generation and evaluation.
    /// There are no [`ParamSet::groups`].
    ///
    /// # Errors
    /// [`Error::Config`] names a parameter that exceeds the adapter's largest buffer; [`Error::Device`].
    pub fn build_for_inference(self, gpu: &Gpu) -> Result<ParamSet> {
        self.build_for_inference_in(gpu, |_| DType::F32)
    }

    /// As [`ParamBuilder::build_for_inference`], matrices in the types that `dtype` gives by their names: f32, or bf16 or f16, which
    /// take half as much. Activations are f32 whatever the weights are. Vectors, and matrices whose sides are not multiples of 4,
    /// are f32 in any case, and so is what `dtype` wants in f16 where the adapter lacks it.
    ///
    /// # Errors
    /// As [`ParamBuilder::build_for_inference`]; [`Error::Config`] for a type that weights do not have.
    pub fn build_for_inference_in(self, gpu: &Gpu, dtype: impl Fn(&str) -> DType) -> Result<ParamSet> {
        let (f16, largest) = (gpu.require_f16().is_ok(), gpu.device().limits().max_buffer_size);
        let typed = |entry: &Entry| {
            let dtype = entry.dtype(dtype(&entry.name), f16)?;
            entry.fits(dtype, largest).map(|()| dtype)
        };
        let dtypes: Vec<DType> = self.entries.iter().map(typed).collect::<Result<_>>()?;
        let param = |(Entry { name, group, shape, init, hidden }, dtype): (Entry, DType)| {
            let value = Tensor::persistent(gpu, &shape[..], dtype)?;
            Ok(Param { name, group, init, hidden, value, gradient: None, half: None })
        };
        let params = self.entries.into_iter().zip(dtypes).map(param).collect::<Result<_>>()?;
        let state = states(gpu, self.state)?;
        let rotary = self.rotary.iter().map(|frequencies| frequencies.table(gpu)).collect::<Result<_>>()?;
        let (align, precision) = (1, Precision::F32);
        Ok(ParamSet { params, groups: Vec::new(), state, rotary, expert_layers: self.expert_layers, align, precision })
    }

    /// Makes the buffers, zeroed, with those of the f16 copies where `precision` has them.
    ///
    /// # Errors
    /// [`Error::Device`] when a group exceeds the adapter's largest buffer, or when the adapter lacks f16;
    /// [`Error::Shape`] when the matrices of an expert group differ in shape.
    pub(crate) fn build_for(self, gpu: &Gpu, precision: Precision) -> Result<ParamSet> {
        let mixed = precision == Precision::F16;
        // A view must start aligned in every group, in f16 too.
        let align = gpu.offset_alignment() as usize / if mixed { 2 } else { 4 };
        let mut views: Vec<Option<Views>> = vec![None; self.entries.len()];
        let mut groups = Vec::new();
        for group in Group::ALL {
            let members: Vec<usize> = (0..self.entries.len()).filter(|&i| self.entries[i].group == group).collect();
            let Some(&first) = members.first() else { continue };
            let shape = &self.entries[first].shape;
            let expert = matches!(group, Group::Experts(_));
            if let Some(&other) = members.iter().find(|&&i| expert && self.entries[i].shape != *shape) {
                return Err(Error::shape(
                    "parameters",
                    format!("{shape:?}"),
                    format!("{:?}", self.entries[other].shape),
                ));
            }
            let padded = |i: usize| self.entries[i].shape.iter().product::<usize>().next_multiple_of(align);
            let total: usize = members.iter().map(|&i| padded(i)).sum();
            let values = Tensor::persistent(gpu, [total], DType::F32)?;
            let gradients = Tensor::persistent(gpu, [total], DType::F32)?;
            let half = (mixed && group != Group::NoDecay).then(|| Tensor::persistent(gpu, [total], DType::F16));
            let half = half.transpose()?;
            let mut start = 0;
            for &i in &members {
                let shape = &self.entries[i].shape;
                let size: usize = shape.iter().product();
                let view = |flat: &Tensor| flat.slice(start..start + size)?.reshape(shape);
                views[i] = Some((view(&values)?, view(&gradients)?, half.as_ref().map(view).transpose()?));
                start += padded(i);
            }
            let mut stacks = Vec::new();
            if expert {
                let size = shape.iter().product::<usize>();
                let count = if size % align == 0 { members.len() } else { 1 };
                let stacked: Vec<usize> = std::iter::once(count).chain(shape.iter().copied()).collect();
                for start in (0..total).step_by(count * padded(first)) {
                    let view = |flat: &Tensor| flat.slice(start..start + count * size)?.reshape(&stacked);
                    stacks.push((view(&values)?, view(&gradients)?));
                }
            }
            groups.push(GroupBuffers { group, values, gradients, stacks, half });
        }
        let params = self
            .entries
            .into_iter()
            .zip(views)
            .filter_map(|(Entry { name, group, init, hidden, .. }, view)| {
                let (value, gradient, half) = view?;
                Some(Param { name, group, init, hidden, value, gradient: Some(gradient), half })
            })
            .collect();
        let state = states(gpu, self.state)?;
        let rotary = self.rotary.iter().map(|frequencies| frequencies.table(gpu)).collect::<Result<_>>()?;
        Ok(ParamSet { params, groups, state, rotary, expert_layers: self.expert_layers, align, precision })
    }
}

/// Whether both sides of a matrix, or of each of a bank, are multiples of 4.
fn in_fours(shape: &[usize]) -> bool {
    matches!(shape, [.., rows, columns] if rows.is_multiple_of(4) && columns.is_multiple_of(4))
}

/// The tensors beside the parameters, zeroed.
fn states(gpu: &Gpu, state: Vec<(String, Vec<usize>)>) -> Result<Vec<(String, Tensor)>> {
    let made = |(name, shape): (String, Vec<usize>)| Ok((name, Tensor::persistent(gpu, &shape[..], DType::F32)?));
    state.into_iter().map(made).collect()
}
