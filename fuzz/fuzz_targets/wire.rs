#![no_main]
//! See `coroner_fuzz::wire`.

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    coroner_fuzz::wire::run(input);
});
