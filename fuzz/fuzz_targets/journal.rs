#![no_main]
//! See `coroner_fuzz::journal`.

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    coroner_fuzz::journal::run(input);
});
