//! The program that is pushed to a host.

fn main() -> std::process::ExitCode {
    setpoint::runner::main()
}
