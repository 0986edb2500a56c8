#![no_main]
//! See `coroner_fuzz::beat`.

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    coroner_fuzz::beat::run(input);
});
