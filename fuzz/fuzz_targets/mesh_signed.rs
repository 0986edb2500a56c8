#![no_main]
//! See `coroner_fuzz::mesh_signed`.

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    coroner_fuzz::mesh_signed::run(input);
});
