//! Compiles the call paths that must keep frame pointers down to the syscall instruction.

fn main() {
    println!("cargo::rerun-if-changed=c/paths.c");
    println!("cargo::rerun-if-changed=c/syscall.h");
    cc::Build::new()
        .file("c/paths.c")
        // Any optimization leaves out the frames of functions that call none.
        .opt_level(0)
        .debug(true)
        .force_frame_pointer(true)
        .flag("-mno-omit-leaf-frame-pointer")
        .flag("-fno-optimize-sibling-calls")
        .compile("paths");
}
