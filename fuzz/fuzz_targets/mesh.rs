#![no_main]
//! See `coroner_fuzz::mesh`.

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    coroner_fuzz::mesh::run(input);
});
