#![no_main]
//! See `coroner_fuzz::redis`.

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    coroner_fuzz::redis::run(input);
});
