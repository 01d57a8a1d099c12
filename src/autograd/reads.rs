//! The values that an op's backward reads of those that its forward saw.

/// The inputs, and whether the output, that an op's backward reads; shapes can always be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reads {
    /// A bit for each input.
    inputs: u32,
    output: bool,
}

impl Reads {
    /// Everything.
    pub const ALL: Reads = Reads { inputs: u32::MAX, output: true };
    /// Nothing but the gradient of the output, and what forward saved.
    pub const NONE: Reads = Reads { inputs: 0, output: false };
    /// The output alone.
    pub const OUTPUT: Reads = Reads { inputs: 0, output: true };

    /// These inputs, of the first 32.
    pub const fn inputs<const N: usize>(inputs: [usize; N]) -> Reads {
        let (mut bits, mut i) = (0, 0);
        while i < N {
            bits |= 1 << inputs[i];
            i += 1;
        }
        Reads { inputs: bits, output: false }
    }

    /// These and the output.
    pub const fn and_output(self) -> Reads {
        Reads { output: true, ..self }
    }

    /// Whether input `i` is read.
    pub fn input(self, i: usize) -> bool {
        self.inputs == u32::MAX || (i < 32 && self.inputs >> i & 1 == 1)
    }

    /// Whether the output is read.
    pub fn output(self) -> bool {
        self.output
    }
}
