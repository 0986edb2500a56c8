#![no_main]
//! See `coroner_fuzz::control`.

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    coroner_fuzz::control::run(input);
});
