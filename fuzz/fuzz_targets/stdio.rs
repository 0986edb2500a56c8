#![no_main]
//! See `coroner_fuzz::stdio`.

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    coroner_fuzz::stdio::run(input);
});
