//! A hasher of 128 bits, fast on many small numbers. Of ten million states, two share a fingerprint by accident with a
//! chance of about one in ten to the twenty-four.

use std::hash::Hasher;

/// Two lanes of folded multiplication.
#[derive(Clone, Copy)]
pub struct Print128 {
    a: u64,
    b: u64,
}

const fn fold(x: u64, by: u64) -> u64 {
    let wide = (x as u128) * (by as u128);
    (wide as u64) ^ ((wide >> 64) as u64)
}

impl Print128 {
    pub const fn new() -> Self {
        Self { a: 0x9e37_79b9_7f4a_7c15, b: 0xd1b5_4a32_d192_ed03 }
    }

    pub const fn value(&self) -> u128 {
        let a = fold(self.a ^ 0x2545_f491_4f6c_dd1d, 0xbf58_476d_1ce4_e5b9);
        let b = fold(self.b ^ 0x94d0_49bb_1331_11eb, 0xff51_afd7_ed55_8ccd);
        ((a as u128) << 64) | b as u128
    }
}

impl Hasher for Print128 {
    fn finish(&self) -> u64 {
        self.value() as u64
    }

    fn write(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            self.write_u64(u64::from_le_bytes(chunk.try_into().unwrap()));
        }
        let rest = chunks.remainder();
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            self.write_u64(u64::from_le_bytes(last) ^ (rest.len() as u64) << 56);
        }
    }

    fn write_u64(&mut self, x: u64) {
        self.a = fold(self.a ^ x, 0xe703_7ed1_a0b4_28db).wrapping_add(x.rotate_left(32));
        self.b = fold(self.b.rotate_left(25) ^ x, 0x8ebc_6af0_9c88_c6e3).wrapping_add(self.a);
    }

    fn write_u8(&mut self, x: u8) {
        self.write_u64(u64::from(x) | 0x100);
    }

    fn write_u16(&mut self, x: u16) {
        self.write_u64(u64::from(x));
    }

    fn write_u32(&mut self, x: u32) {
        self.write_u64(u64::from(x));
    }

    fn write_u128(&mut self, x: u128) {
        self.write_u64(x as u64);
        self.write_u64((x >> 64) as u64);
    }

    fn write_usize(&mut self, x: usize) {
        self.write_u64(x as u64);
    }

    fn write_i64(&mut self, x: i64) {
        self.write_u64(x as u64);
    }
}
