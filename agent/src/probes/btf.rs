//! Offsets of kernel structures and shapes of tracepoint functions, from the kernel's BTF
//! (Documentation/bpf/btf.rst; `/sys/kernel/btf/vmlinux`).
//!
//! Reads what the probes ask for straight from the bytes, in one pass over the types, and keeps nothing: the BTF of a
//! distribution's kernel has some hundred thousand types, and the probes need a dozen offsets.

use std::collections::HashMap;
use std::fs;

use super::Unavailable;
use crate::host::Host;

/// Anonymous structures within each other that are looked into.
const MAX_DEPTH: u32 = 4;
const MAGIC: u16 = 0xeb9f;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_ENUM64: u32 = 19;

/// The kernel's BTF, whole, as bytes.
pub struct Btf {
    bytes: Vec<u8>,
    types: (usize, usize),
    strings: (usize, usize),
}

/// One type: its name, what it is, and where its details stand.
struct Type {
    name_offset: u32,
    kind: u32,
    members: u32,
    bit_fields: bool,
    /// Of pointers and typedefs: the type referred to.
    referred: u32,
    details: usize,
}

impl Btf {
    /// Reads the running kernel's BTF.
    ///
    /// # Errors
    /// The kernel has none, it is not readable, or not of version 1.
    pub fn read(host: &Host) -> Result<Self, Unavailable> {
        let path = host.sysfs("kernel/btf/vmlinux");
        let bytes = fs::read(&path).map_err(|error| {
            Unavailable::new(
                format!("cannot read the kernel's BTF, {}: {error}", path.display()),
                "a kernel built with CONFIG_DEBUG_INFO_BTF has it",
            )
        })?;
        Self::new(bytes).ok_or_else(|| {
            Unavailable::new(format!("{} is not BTF of version 1", path.display()), "please report the kernel's version")
        })
    }

    fn new(bytes: Vec<u8>) -> Option<Self> {
        let header = Reader { bytes: &bytes };
        if header.u16(0)? != MAGIC || *bytes.get(2)? != 1 {
            return None;
        }
        let start = usize::try_from(header.u32(4)?).ok()?;
        let section = |offset: usize, len: usize| -> Option<(usize, usize)> {
            let begin = start.checked_add(usize::try_from(header.u32(offset)?).ok()?)?;
            let end = begin.checked_add(usize::try_from(header.u32(len)?).ok()?)?;
            (end <= bytes.len()).then_some((begin, end))
        };
        let (types, strings) = (section(8, 12)?, section(16, 20)?);
        Some(Self { bytes, types, strings })
    }

    /// Byte offsets of members, by (structure, member), also of those in anonymous structures and unions inside. What the kernel
    /// does not have is not in the answer; neither are bit fields.
    pub fn member_offsets(&self, wanted: &[(&'static str, &'static str)]) -> HashMap<(&'static str, &'static str), u16> {
        let mut found = HashMap::new();
        // Anonymous types to look into: of which structure they are a part, and from which bit on.
        let mut inside: HashMap<u32, Vec<(&'static str, u32)>> = HashMap::new();
        for depth in 0..MAX_DEPTH {
            let parts = std::mem::take(&mut inside);
            if depth > 0 && (parts.is_empty() || found.len() == wanted.len()) {
                break;
            }
            self.each_type(|id, kind| {
                if kind.kind != KIND_STRUCT && kind.kind != KIND_UNION {
                    return;
                }
                let named = (depth == 0).then(|| self.string(kind.name_offset)).flatten();
                let named = wanted.iter().map(|(structure, _)| *structure).find(|name| named == Some(name.as_bytes()));
                let known = parts.get(&id).map_or(&[][..], Vec::as_slice);
                for (structure, base) in named.map(|structure| (structure, 0)).into_iter().chain(known.iter().copied()) {
                    self.each_member(kind, |name, referred, bits, size| {
                        let Some(bits) = bits.checked_add(base) else { return };
                        if name.is_empty() {
                            inside.entry(referred).or_default().push((structure, bits));
                        } else if let Some(key) = wanted.iter().find(|key| key.0 == structure && key.1.as_bytes() == name)
                            && size == 0
                            && bits % 8 == 0
                            && let Ok(offset) = u16::try_from(bits / 8)
                        {
                            found.entry(*key).or_insert(offset);
                        }
                    });
                }
            });
        }
        found
    }

    /// The same, where a probe can tell nothing without any of them.
    ///
    /// # Errors
    /// The first that the kernel does not have.
    pub fn required_offsets(
        &self,
        wanted: &[(&'static str, &'static str)],
    ) -> Result<HashMap<(&'static str, &'static str), u16>, Unavailable> {
        let found = self.member_offsets(wanted);
        match wanted.iter().find(|key| !found.contains_key(*key)) {
            None => Ok(found),
            Some((structure, member)) => Err(Unavailable::new(
                format!("this kernel's BTF has no member {member} in struct {structure}"),
                "please report the kernel's version; its layout is not known to this program",
            )),
        }
    }

    /// The number of arguments that the programs of each raw tracepoint are given, from the typedefs `btf_trace_NAME`. What the
    /// kernel does not have is not in the answer.
    pub fn raw_tracepoint_arguments<'a>(&self, tracepoints: &[&'a str]) -> HashMap<&'a str, u32> {
        // From name to typedef to pointer to prototype; a type may come before what refers to it.
        let mut pointers = HashMap::new();
        self.each_type(|_, kind| {
            let name = if kind.kind == KIND_TYPEDEF { self.string(kind.name_offset) } else { None };
            let Some(name) = name.and_then(|name| name.strip_prefix(b"btf_trace_")) else { return };
            if let Some(tracepoint) = tracepoints.iter().find(|tracepoint| tracepoint.as_bytes() == name) {
                pointers.entry(kind.referred).or_insert_with(Vec::new).push(*tracepoint);
            }
        });
        let mut prototypes = HashMap::new();
        self.each_type(|id, kind| {
            if let Some(tracepoints) = pointers.get(&id) {
                prototypes.entry(kind.referred).or_insert_with(Vec::new).extend(tracepoints);
            }
        });
        // The first is the tracepoint's private data, which programs do not see.
        let arguments = self.arguments_of(&prototypes).into_iter();
        arguments.filter_map(|(tracepoint, count)| Some((tracepoint, count.checked_sub(1)?))).collect()
    }

    /// The number of arguments of functions. What the kernel does not have is not in the answer.
    pub fn function_arguments<'a>(&self, functions: &[&'a str]) -> HashMap<&'a str, u32> {
        let mut prototypes = HashMap::new();
        self.each_type(|_, kind| {
            let name = if kind.kind == KIND_FUNC { self.string(kind.name_offset) } else { None };
            if let Some(function) = functions.iter().find(|function| name == Some(function.as_bytes())) {
                prototypes.entry(kind.referred).or_insert_with(Vec::new).push(*function);
            }
        });
        self.arguments_of(&prototypes)
    }

    /// The number of arguments of each name, from the prototypes that they have.
    fn arguments_of<'a>(&self, prototypes: &HashMap<u32, Vec<&'a str>>) -> HashMap<&'a str, u32> {
        let mut arguments = HashMap::new();
        self.each_type(|id, kind| {
            if let (KIND_FUNC_PROTO, Some(names)) = (kind.kind, prototypes.get(&id)) {
                arguments.extend(names.iter().map(|name| (*name, kind.members)));
            }
        });
        arguments
    }

    /// Calls `visit` with name, type, offset in bits, and size in bits (of bit fields, else zero) of each member.
    fn each_member(&self, structure: &Type, mut visit: impl FnMut(&[u8], u32, u32, u32)) {
        let reader = Reader { bytes: &self.bytes };
        for at in (0..structure.members as usize).map(|index| structure.details + index * 12) {
            let (Some(name), Some(referred), Some(offset)) = (reader.u32(at), reader.u32(at + 4), reader.u32(at + 8)) else {
                return;
            };
            let (bits, size) = if structure.bit_fields { (offset & 0x00ff_ffff, offset >> 24) } else { (offset, 0) };
            visit(self.string(name).unwrap_or_default(), referred, bits, size);
        }
    }

    /// Calls `visit` with each type and its id; ends early where the bytes make no sense.
    fn each_type(&self, mut visit: impl FnMut(u32, &Type)) {
        let reader = Reader { bytes: self.bytes.get(..self.types.1).unwrap_or_default() };
        let mut at = self.types.0;
        let mut id = 1;
        while let (Some(name_offset), Some(info), Some(referred)) = (reader.u32(at), reader.u32(at + 4), reader.u32(at + 8)) {
            let (kind, members) = ((info >> 24) & 0x1f, info & 0xffff);
            let details = at + 12;
            visit(id, &Type { name_offset, kind, members, bit_fields: info >> 31 == 1, referred, details });
            at = details + details_len(kind, members as usize);
            id += 1;
        }
    }

    fn string(&self, offset: u32) -> Option<&[u8]> {
        let strings = self.bytes.get(self.strings.0..self.strings.1)?;
        let rest = strings.get(usize::try_from(offset).ok()?..)?;
        rest.split(|byte| *byte == 0).next()
    }
}

/// Bytes that follow the common part of a type.
const fn details_len(kind: u32, members: usize) -> usize {
    match kind {
        KIND_ARRAY | KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => {
            if kind == KIND_ARRAY {
                12
            } else {
                12 * members
            }
        }
        KIND_ENUM | KIND_FUNC_PROTO => 8 * members,
        // Integers, and the two kinds with one word more.
        1 | KIND_VAR | KIND_DECL_TAG => 4,
        _ => 0,
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl Reader<'_> {
    fn u16(&self, at: usize) -> Option<u16> {
        self.bytes.get(at..at.checked_add(2)?)?.try_into().ok().map(u16::from_ne_bytes)
    }

    fn u32(&self, at: usize) -> Option<u32> {
        self.bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_ne_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// BTF with `struct request { void *q; int flags:3; unsigned __data_len; union { int hidden; }; }` and the tracepoint `x` with two arguments.
    fn sample() -> Vec<u8> {
        let strings = b"\0request\0q\0flags\0__data_len\0btf_trace_x\0hidden\0";
        let at = |name: &str| {
            let text = std::str::from_utf8(strings).unwrap();
            u32::try_from(text.find(&format!("\0{name}\0")).unwrap() + 1).unwrap()
        };
        let structure = |members: u32| (1 << 31) | (KIND_STRUCT << 24) | members;
        let types: Vec<u32> = [
            vec![0, 1 << 24, 4, 32],
            vec![at("request"), structure(4), 24],
            vec![at("q"), 3, 0, at("flags"), 1, (3 << 24) | 64, at("__data_len"), 1, 96, 0, 7, 160],
            vec![0, 2 << 24, 0],
            vec![0, (KIND_FUNC_PROTO << 24) | 3, 0, 0, 3, 0, 3, 0, 1],
            vec![0, 2 << 24, 4],
            vec![at("btf_trace_x"), KIND_TYPEDEF << 24, 5],
            vec![0, (KIND_UNION << 24) | 1, 4, at("hidden"), 1, 0],
        ]
        .concat();
        let types: Vec<u8> = types.into_iter().flat_map(u32::to_ne_bytes).collect();
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        let len = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap();
        for word in [24, 0, len(&types), len(&types), len(strings)] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(types);
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn members_are_found_and_bit_fields_are_not() {
        let btf = Btf::new(sample()).unwrap();
        let wanted =
            [("request", "q"), ("request", "flags"), ("request", "__data_len"), ("request", "hidden"), ("request", "gone")];
        let found = btf.member_offsets(&[&wanted[..], &[("none", "q")]].concat());
        let expected = [(("request", "q"), 0), (("request", "__data_len"), 12), (("request", "hidden"), 20)];
        assert_eq!(found, HashMap::from(expected));
    }

    #[test]
    fn the_running_kernel_knows_the_arguments_of_its_functions() {
        let Ok(btf) = Btf::read(&Host::new(crate::config::HostRoots::default())) else {
            println!("the running kernel has no BTF: nothing to compare");
            return;
        };
        let found = btf.function_arguments(&["vfs_read", "no_such_function"]);
        assert_eq!(found, HashMap::from([("vfs_read", 4)]));
    }

    #[test]
    fn arguments_of_a_raw_tracepoint_leave_out_the_private_one() {
        let btf = Btf::new(sample()).unwrap();
        assert_eq!(btf.raw_tracepoint_arguments(&["x", "y"]), HashMap::from([("x", 2)]));
    }

    #[test]
    fn cut_or_flipped_bytes_give_no_panic() {
        let whole = sample();
        for len in 0..whole.len() {
            if let Some(btf) = Btf::new(whole[..len].to_vec()) {
                btf.member_offsets(&[("request", "hidden")]);
            }
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0xff;
            if let Some(btf) = Btf::new(bytes) {
                btf.member_offsets(&[("request", "__data_len"), ("request", "hidden")]);
                btf.raw_tracepoint_arguments(&["x"]);
            }
        }
    }

    #[test]
    fn the_running_kernel_knows_its_block_requests() {
        let Ok(btf) = Btf::read(&Host::new(crate::config::HostRoots::default())) else {
            println!("the running kernel has no BTF: nothing to compare");
            return;
        };
        let found = btf.member_offsets(&[("request", "__sector"), ("gendisk", "major")]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(btf.raw_tracepoint_arguments(&["block_rq_complete"]).get("block_rq_complete") == Some(&3));
    }
}
