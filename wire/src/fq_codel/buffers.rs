//! Memory for packets that wait: a few sizes, used again and again.

/// Sizes of buffers, in bytes: most packets, small super-packets, the largest.
const SIZES: [usize; 3] = [2 << 10, 16 << 10, 64 << 10];
/// Spare bytes that are kept of each size.
const SPARE: usize = 1 << 20;

/// A packet's memory.
#[derive(Debug)]
pub(super) struct Buffer {
    memory: Box<[u8]>,
    len: usize,
}

impl Buffer {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[..self.len]
    }
}

/// Buffers that nothing lies in.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    spare: [Vec<Box<[u8]>>; SIZES.len()],
}

impl Buffers {
    /// A buffer with a copy of `packet` in it.
    pub(super) fn copy(&mut self, packet: &[u8]) -> Buffer {
        let class = SIZES.iter().position(|size| packet.len() <= *size);
        let mut memory = match class {
            Some(class) => self.spare[class]
                .pop()
                .unwrap_or_else(|| vec![0; SIZES[class]].into()),
            // No carrier brings one that long.
            None => vec![0; packet.len()].into(),
        };
        memory[..packet.len()].copy_from_slice(packet);
        Buffer {
            memory,
            len: packet.len(),
        }
    }

    pub(super) fn give_back(&mut self, buffer: Buffer) {
        let class = SIZES.iter().position(|size| buffer.memory.len() == *size);
        if let Some(class) = class
            && self.spare[class].len() < SPARE / SIZES[class]
        {
            self.spare[class].push(buffer.memory);
        }
    }

    pub(super) fn forget_spares(&mut self) {
        self.spare = Default::default();
    }
}
