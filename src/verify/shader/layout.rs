//! Where in a buffer its scalars lie, by its WGSL type: the rest is padding.

use naga::{ArraySize, Handle, Module, Scalar, ScalarKind, Type, TypeInner};

/// The elements of a constant array that are taken apart one by one; a longer one must not lie within a struct.
const MOST: u32 = 1 << 16;

/// A scalar in a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leaf {
    /// Its first byte.
    pub offset: u64,
    /// Its type.
    pub scalar: Scalar,
}

/// The scalars of a buffer.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    head: Vec<Leaf>,
    /// An array at the end: its first byte, the bytes from one element to the next, and the scalars of an element.
    tail: Option<(u64, u64, Vec<Leaf>)>,
    /// The bytes of the type, where they are fixed.
    pub fixed: Option<u64>,
    /// The fewest bytes: with one element where the array at the end has any number.
    pub least: u64,
}

impl Layout {
    /// The layout of a variable's type.
    ///
    /// # Errors
    /// A description of a type that is not for buffers.
    pub fn new(module: &Module, ty: Handle<Type>) -> Result<Self, String> {
        let types = &module.types;
        let own = u64::from(types[ty].inner.size(module.to_ctx()));
        let mut head = Vec::new();
        let array = |start: u64, base: Handle<Type>, stride: u32| -> Result<(u64, u64, Vec<Leaf>), String> {
            let mut leaves = Vec::new();
            take_apart(module, base, 0, &mut leaves)?;
            Ok((start, u64::from(stride), leaves))
        };
        match &types[ty].inner {
            TypeInner::Array { base, size, stride } => {
                let tail = array(0, *base, *stride)?;
                let dynamic = matches!(size, ArraySize::Dynamic);
                let least = if dynamic { u64::from(*stride) } else { own };
                Ok(Self { head, tail: Some(tail), fixed: (!dynamic).then_some(own), least })
            }
            TypeInner::Struct { members, span } => {
                let mut tail = None;
                for member in members {
                    match types[member.ty].inner {
                        TypeInner::Array { base, size: ArraySize::Dynamic, stride } => {
                            tail = Some(array(u64::from(member.offset), base, stride)?);
                        }
                        _ => take_apart(module, member.ty, u64::from(member.offset), &mut head)?,
                    }
                }
                let least = tail.as_ref().map_or(u64::from(*span), |(start, stride, _)| start + stride);
                Ok(Self { head, fixed: tail.is_none().then_some(u64::from(*span)), tail, least })
            }
            _ => {
                take_apart(module, ty, 0, &mut head)?;
                Ok(Self { head, tail: None, fixed: Some(own), least: own })
            }
        }
    }

    /// The scalars of a buffer of `size` bytes, in order.
    pub fn leaves(&self, size: u64) -> impl Iterator<Item = Leaf> + '_ {
        let tail = self.tail.iter().flat_map(move |(start, stride, leaves)| {
            let count = size.saturating_sub(*start).checked_div(*stride).unwrap_or(0);
            (0..count)
                .flat_map(move |i| leaves.iter().map(move |l| Leaf { offset: start + i * stride + l.offset, ..*l }))
        });
        self.head.iter().copied().chain(tail).filter(move |l| l.offset + u64::from(l.scalar.width) <= size)
    }
}

/// Collects the scalars of a type of fixed size that begins at `offset`.
fn take_apart(module: &Module, ty: Handle<Type>, offset: u64, leaves: &mut Vec<Leaf>) -> Result<(), String> {
    let types = &module.types;
    match &types[ty].inner {
        TypeInner::Scalar(scalar) | TypeInner::Atomic(scalar) => leaves.push(Leaf { offset, scalar: *scalar }),
        TypeInner::Vector { size, scalar } => {
            let lane = |i: u64| Leaf { offset: offset + i * u64::from(scalar.width), scalar: *scalar };
            leaves.extend((0..*size as u64).map(lane));
        }
        TypeInner::Matrix { columns, rows, scalar } => {
            let width = u64::from(scalar.width);
            // A column of three is as long as one of four.
            let column = width * if *rows as u64 == 2 { 2 } else { 4 };
            for c in 0..*columns as u64 {
                leaves.extend(
                    (0..*rows as u64).map(|r| Leaf { offset: offset + c * column + r * width, scalar: *scalar }),
                );
            }
        }
        TypeInner::Array { base, size: ArraySize::Constant(count), stride } => {
            if count.get() > MOST {
                return Err(format!(
                    "an array of {count} elements within another type; at most {MOST} can be compared"
                ));
            }
            for i in 0..count.get() {
                take_apart(module, *base, offset + u64::from(i) * u64::from(*stride), leaves)?;
            }
        }
        TypeInner::Struct { members, .. } => {
            for member in members {
                take_apart(module, member.ty, offset + u64::from(member.offset), leaves)?;
            }
        }
        _ => return Err("a type that has no place in a buffer of known size".into()),
    }
    Ok(())
}

impl Leaf {
    /// The scalar's bytes.
    pub fn bytes<'a>(&self, buffer: &'a [u8]) -> &'a [u8] {
        let start = self.offset as usize;
        &buffer[start..start + self.scalar.width as usize]
    }

    /// Whether it is a float.
    pub fn is_float(&self) -> bool {
        self.scalar.kind == ScalarKind::Float
    }

    /// Its value, widened; exact but for integers of 64 bits.
    pub fn value(&self, buffer: &[u8]) -> f64 {
        let bytes = self.bytes(buffer);
        let word = |n: usize| {
            let mut word = [0; 8];
            word[..n].copy_from_slice(&bytes[..n]);
            u64::from_le_bytes(word)
        };
        match (self.scalar.kind, self.scalar.width) {
            (ScalarKind::Float, 2) => f64::from(half::f16::from_bits(word(2) as u16)),
            (ScalarKind::Float, 4) => f64::from(f32::from_bits(word(4) as u32)),
            (ScalarKind::Float, _) => f64::from_bits(word(8)),
            (ScalarKind::Sint, 4) => f64::from(word(4) as u32 as i32),
            (ScalarKind::Sint, 8) => word(8) as i64 as f64,
            (_, width) => word(usize::from(width)) as f64,
        }
    }

    /// Its value for a person.
    pub fn show(&self, buffer: &[u8]) -> String {
        let value = self.value(buffer);
        if self.is_float() { format!("{value:?}") } else { format!("{value}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(ty: &str) -> Layout {
        let source = format!(
            "struct S {{ a: f32, b: vec3<u32>, c: array<vec3<f32>> }} @group(0) @binding(0) var<storage> x: {ty};"
        );
        let module = naga::front::wgsl::parse_str(&source).unwrap();
        let (_, variable) = module.global_variables.iter().next().unwrap();
        Layout::new(&module, variable.ty).unwrap()
    }

    #[test]
    fn padding_is_left_out() {
        let offsets = |ty: &str, size| layout(ty).leaves(size).map(|l| l.offset).collect::<Vec<_>>();
        assert_eq!(offsets("array<f32>", 12), [0, 4, 8]);
        assert_eq!(offsets("array<vec3<f32>>", 32), [0, 4, 8, 16, 20, 24]);
        assert_eq!(offsets("S", 64), [0, 16, 20, 24, 32, 36, 40, 48, 52, 56]);
        assert_eq!(offsets("mat2x3<f32>", 32), [0, 4, 8, 16, 20, 24]);
        assert_eq!(offsets("array<u32, 2>", 8), [0, 4]);
    }

    #[test]
    fn sizes_are_those_of_the_type() {
        assert_eq!((layout("S").fixed, layout("S").least), (None, 48));
        assert_eq!((layout("array<u32, 5>").fixed, layout("array<u32, 5>").least), (Some(20), 20));
        assert_eq!(layout("vec4<f32>").fixed, Some(16));
    }
}
