//! The program that keeps a group's network namespace: it does nothing, in as few bytes as possible.
//!
//! It is put together here and not built beside: an engine needs no file of its own then, wherever
//! it runs, and a namespace costs two pages of memory. It ends by KILL alone, as every process 1
//! does that handles no signal, so nobody waits for it.

/// The program for the processor that a daemon names, as in its `Arch`; none for others.
pub(super) fn program(architecture: &str) -> Option<Vec<u8>> {
    let (machine, code): (u16, &[u8]) = match architecture {
        "amd64" | "x86_64" => (EM_X86_64, PAUSE_X86_64),
        "arm64" | "aarch64" => (EM_AARCH64, PAUSE_AARCH64),
        _ => return None,
    };
    let size = HEADERS + code.len() as u64;
    let mut elf = Vec::with_capacity(256);
    // The header of the file: 64 bits, little endian, version 1, no particular system.
    elf.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    elf.extend(2_u16.to_le_bytes()); // an executable
    elf.extend(machine.to_le_bytes());
    elf.extend(1_u32.to_le_bytes());
    elf.extend((BASE + HEADERS).to_le_bytes()); // where it begins
    elf.extend(FILE_HEADER.to_le_bytes()); // where its one program header is
    elf.extend(0_u64.to_le_bytes()); // no sections
    elf.extend(0_u32.to_le_bytes());
    // Sizes of the two headers, and how many there are of the second; of sections none.
    for field in [64_u16, 56, 1, 0, 0, 0] {
        elf.extend(field.to_le_bytes());
    }
    // The header of the program: load the whole file, readable and executable.
    elf.extend(1_u32.to_le_bytes());
    elf.extend(5_u32.to_le_bytes());
    for field in [0, BASE, BASE, size, size, 0x1_0000] {
        elf.extend(field.to_le_bytes());
    }
    elf.extend(code);
    Some(elf)
}

/// `mov eax, 34` (pause), `syscall`, and again.
const PAUSE_X86_64: &[u8] = &[0xb8, 0x22, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7];

/// `mov x0..x4, 0`, `mov x8, 73` (ppoll on nothing, without a limit), `svc 0`, and again.
const PAUSE_AARCH64: &[u8] = &[
    0x00, 0x00, 0x80, 0xd2, 0x01, 0x00, 0x80, 0xd2, 0x02, 0x00, 0x80, 0xd2, 0x03, 0x00, 0x80, 0xd2,
    0x04, 0x00, 0x80, 0xd2, 0x28, 0x09, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4, 0xf9, 0xff, 0xff, 0x17,
];

// Source: elf(5).
const EM_X86_64: u16 = 62;
const EM_AARCH64: u16 = 183;
const FILE_HEADER: u64 = 64;
const PROGRAM_HEADER: u64 = 56;
const HEADERS: u64 = FILE_HEADER + PROGRAM_HEADER;
/// Where it is loaded; any page above the lowest ones would do.
const BASE: u64 = 0x40_0000;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;

    use super::*;

    #[test]
    fn the_program_waits_until_it_is_killed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pause");
        fs::write(&path, program(std::env::consts::ARCH).unwrap()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let mut child = Command::new(&path).spawn().unwrap();
        // It sleeps in the system call that it is for, and not anywhere else.
        let wchan = format!("/proc/{}/stat", child.id());
        let sleeps = || fs::read_to_string(&wchan).unwrap().contains(") S ");
        while !sleeps() {
            assert_eq!(child.try_wait().unwrap(), None);
            std::thread::yield_now();
        }
        child.kill().unwrap();
        let status = child.wait().unwrap();
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&status),
            Some(9)
        );
    }

    #[test]
    fn headers_tell_the_whole_file() {
        for architecture in ["amd64", "arm64"] {
            let elf = program(architecture).unwrap();
            assert!(elf.len() < 256);
            assert_eq!(elf[96..104], (elf.len() as u64).to_le_bytes());
        }
        assert_eq!(program("riscv64"), None);
    }
}
