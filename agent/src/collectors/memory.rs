//! Memory and swap: `/proc/meminfo` and `/proc/vmstat`, described in proc_meminfo(5) and proc_vmstat(5).

use super::interval::percent;
use super::text::{fields, number};
use super::{Batch, Collector, Expected, Row, keys, metrics, plain};
use crate::host::{Host, ProcFile, ReadError};
use crate::model::{Labels, Metric, SeriesKey};

pub const ROW: Row = Row {
    name: "memory",
    summary: "memory and swap: use, caches, reclaim, faults",
    source: "/proc/meminfo, /proc/vmstat",
    interval: |config| config.collector.memory_interval,
    build: |_, host| Box::new(Memory::new(host)),
    metrics: METRICS,
};

metrics! {
    gauge TOTAL: Bytes = "memory_total_bytes", "Usable memory (/proc/meminfo MemTotal).";
    gauge FREE: Bytes = "memory_free_bytes", "Memory that nothing uses (/proc/meminfo MemFree).";
    gauge AVAILABLE: Bytes = "memory_available_bytes",
        "Memory that could be given out without swapping (/proc/meminfo MemAvailable; before 3.14 computed as procps does).";
    gauge USED: Bytes = "memory_used_bytes", "Total less available.";
    gauge USAGE: Percent = "memory_usage_percent", "Used by total.";
    gauge BUFFERS: Bytes = "memory_buffers_bytes", "Cache of block devices (/proc/meminfo Buffers).";
    gauge CACHED: Bytes = "memory_cached_bytes", "Page cache, shared memory included (/proc/meminfo Cached).";
    gauge DIRTY: Bytes = "memory_dirty_bytes", "Waits to be written to disk (/proc/meminfo Dirty).";
    gauge WRITEBACK: Bytes = "memory_writeback_bytes", "Is being written to disk (/proc/meminfo Writeback).";
    gauge SLAB: Bytes = "memory_slab_bytes", "The kernel's own objects (/proc/meminfo Slab).";
    gauge SLAB_RECLAIMABLE: Bytes = "memory_slab_reclaimable_bytes",
        "The part of slab that can be reclaimed (/proc/meminfo SReclaimable).";
    gauge SWAP_TOTAL: Bytes = "memory_swap_total_bytes", "Swap space (/proc/meminfo SwapTotal).";
    gauge SWAP_USED: Bytes = "memory_swap_used_bytes", "Swap space in use (/proc/meminfo SwapTotal less SwapFree).";
    gauge SWAP_USAGE: Percent = "memory_swap_usage_percent", "Swap used by total; absent where there is no swap.";
    counter SWAP_IN: Bytes = "memory_swap_in_bytes_total", "Read from swap since boot (/proc/vmstat pswpin).";
    counter SWAP_OUT: Bytes = "memory_swap_out_bytes_total", "Written to swap since boot (/proc/vmstat pswpout).";
    counter MAJOR_FAULTS: Count = "memory_major_faults_total",
        "Page faults since boot that needed I/O (/proc/vmstat pgmajfault).";
    counter PAGE_SCAN: Count = "memory_page_scan_total",
        "Pages that reclaim looked at since boot, in the background (kswapd) or in an allocation (direct) (/proc/vmstat).";
    counter PAGE_STEAL: Count = "memory_page_steal_total",
        "Pages that reclaim freed since boot, in the background (kswapd) or in an allocation (direct) (/proc/vmstat).";
    counter FAULTS: Count = "memory_faults_total", "Page faults since boot, major and minor ones (/proc/vmstat pgfault).";
    counter PAGED_IN: Bytes = "memory_paged_in_bytes_total",
        "Read from block devices since boot, as bi of vmstat (/proc/vmstat pgpgin).";
    counter PAGED_OUT: Bytes = "memory_paged_out_bytes_total",
        "Written to block devices since boot, as bo of vmstat (/proc/vmstat pgpgout).";
    counter STALLS: Count = "memory_allocation_stalls_total",
        "Allocations since boot that had to reclaim memory themselves (/proc/vmstat allocstall, of all zones).";
    counter REFAULTS: Count = "memory_refaults_total",
        "Pages since boot that were read again soon after they had been reclaimed (/proc/vmstat workingset_refault, mm/workingset.c).";
    gauge SHARED: Bytes = "memory_shared_bytes", "Shared memory and tmpfs (/proc/meminfo Shmem).";
    gauge ANONYMOUS: Bytes = "memory_anonymous_bytes", "Memory of processes that no file is behind (/proc/meminfo AnonPages).";
    gauge MAPPED: Bytes = "memory_mapped_bytes", "Files that processes have mapped (/proc/meminfo Mapped).";
    gauge UNEVICTABLE: Bytes = "memory_unevictable_bytes", "Cannot be reclaimed, as locked memory (/proc/meminfo Unevictable).";
    gauge COMMITTED: Bytes = "memory_committed_bytes",
        "What was promised to processes (/proc/meminfo Committed_AS, Documentation/mm/overcommit-accounting.rst).";
    gauge COMMIT_LIMIT: Bytes = "memory_commit_limit_bytes",
        "Most that is promised where vm.overcommit_memory is 2 (/proc/meminfo CommitLimit, Documentation/mm/overcommit-accounting.rst).";
    gauge PAGE_TABLES: Bytes = "memory_page_tables_bytes", "Page tables of processes (/proc/meminfo PageTables).";
    gauge KERNEL_STACKS: Bytes = "memory_kernel_stacks_bytes", "Kernel stacks of all threads (/proc/meminfo KernelStack).";
    gauge CORRUPTED: Bytes = "memory_corrupted_bytes",
        "Pages taken out of use because the hardware reported them as bad (/proc/meminfo HardwareCorrupted).";
    gauge HUGE_ANONYMOUS: Bytes = "memory_huge_anonymous_bytes",
        "Memory of processes in transparent huge pages (/proc/meminfo AnonHugePages, Documentation/admin-guide/mm/transhuge.rst).";
    gauge HUGE_PAGES: Count = "memory_huge_pages",
        "Huge pages of the default size in the pool, those of them that are free or promised (reserved), and those beyond the pool (surplus) (/proc/meminfo, Documentation/admin-guide/mm/hugetlbpage.rst).";
    gauge HUGE_PAGE_SIZE: Bytes = "memory_huge_page_size_bytes",
        "Default size of a huge page (/proc/meminfo Hugepagesize, Documentation/admin-guide/mm/hugetlbpage.rst).";
}

/// Lines of `/proc/meminfo` that are used as they are; those of huge pages have a state.
const DIRECT: [(&[u8], &Metric, Option<&str>); 15] = [
    (b"Shmem", &SHARED, None),
    (b"AnonPages", &ANONYMOUS, None),
    (b"Mapped", &MAPPED, None),
    (b"Unevictable", &UNEVICTABLE, None),
    (b"Committed_AS", &COMMITTED, None),
    (b"CommitLimit", &COMMIT_LIMIT, None),
    (b"PageTables", &PAGE_TABLES, None),
    (b"KernelStack", &KERNEL_STACKS, None),
    (b"HardwareCorrupted", &CORRUPTED, None),
    (b"AnonHugePages", &HUGE_ANONYMOUS, None),
    (b"HugePages_Total", &HUGE_PAGES, Some("total")),
    (b"HugePages_Free", &HUGE_PAGES, Some("free")),
    (b"HugePages_Rsvd", &HUGE_PAGES, Some("reserved")),
    (b"HugePages_Surp", &HUGE_PAGES, Some("surplus")),
    (b"Hugepagesize", &HUGE_PAGE_SIZE, None),
];

/// Lines of `/proc/meminfo` that others are computed from.
const MEMINFO: [&[u8]; 13] = [
    b"MemTotal",
    b"MemFree",
    b"MemAvailable",
    b"Buffers",
    b"Cached",
    b"Dirty",
    b"Writeback",
    b"Slab",
    b"SReclaimable",
    b"Active(file)",
    b"Inactive(file)",
    b"SwapTotal",
    b"SwapFree",
];

/// Their values in bytes; `None` for a line that is not there.
type Meminfo = [Option<u64>; MEMINFO.len()];

struct Memory {
    meminfo: ProcFile,
    min_free: ProcFile,
    vmstat: ProcFile,
    page_size: u64,
    /// In the order of [`gauges`].
    gauges: [SeriesKey; 14],
    /// In the order of [`DIRECT`].
    direct: [SeriesKey; DIRECT.len()],
    /// In the order of [`Vmstat`].
    counters: [SeriesKey; 12],
}

impl Memory {
    fn new(host: &Host) -> Self {
        let [scan_kswapd, steal_kswapd] = keys([&PAGE_SCAN, &PAGE_STEAL], &Labels::new().with("reclaimer", "kswapd"));
        let [scan_direct, steal_direct] = keys([&PAGE_SCAN, &PAGE_STEAL], &Labels::new().with("reclaimer", "direct"));
        Self {
            meminfo: ProcFile::new(host.procfs("meminfo")),
            min_free: ProcFile::new(host.procfs("sys/vm/min_free_kbytes")),
            vmstat: ProcFile::new(host.procfs("vmstat")),
            page_size: rustix::param::page_size() as u64,
            gauges: [
                &TOTAL,
                &FREE,
                &AVAILABLE,
                &USED,
                &USAGE,
                &BUFFERS,
                &CACHED,
                &DIRTY,
                &WRITEBACK,
                &SLAB,
                &SLAB_RECLAIMABLE,
                &SWAP_TOTAL,
                &SWAP_USED,
                &SWAP_USAGE,
            ]
            .map(plain),
            counters: [
                plain(&SWAP_IN),
                plain(&SWAP_OUT),
                plain(&MAJOR_FAULTS),
                scan_kswapd,
                scan_direct,
                steal_kswapd,
                steal_direct,
                plain(&FAULTS),
                plain(&PAGED_IN),
                plain(&PAGED_OUT),
                plain(&STALLS),
                plain(&REFAULTS),
            ],
            direct: DIRECT.map(|(_, metric, state)| match state {
                Some(state) => SeriesKey::new(metric, Labels::new().with("state", state)),
                None => plain(metric),
            }),
        }
    }

    fn collect_meminfo(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let mut meminfo = Meminfo::default();
        let direct = &self.direct;
        batch.lines(self.meminfo.read()?, |batch, line| {
            let (name, bytes) = parse_meminfo_line(line)?;
            if let Some((_, series)) = DIRECT.iter().zip(direct).find(|((known, ..), _)| *known == name) {
                batch.push_count(series, bytes);
            } else if let Some((_, slot)) = MEMINFO.iter().zip(&mut meminfo).find(|(known, _)| **known == name) {
                *slot = Some(bytes);
            }
            Ok(())
        });
        let min_free = match meminfo {
            [_, _, Some(_), ..] => None,
            _ => self.min_free.read_if_exists()?.and_then(|text| number(text.trim_ascii())),
        };
        for (series, value) in self.gauges.iter().zip(gauges(meminfo, min_free)) {
            if let Some(value) = value {
                batch.push(series, value);
            }
        }
        Ok(())
    }

    fn collect_vmstat(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let mut vmstat = Vmstat::default();
        batch.lines(self.vmstat.read()?, |_, line| vmstat.read(line));
        let mut values = vmstat.0;
        let [swapped_in, swapped_out, _, _, _, _, _, _, paged_in, paged_out, ..] = &mut values;
        // The former are counted in pages, the latter in KiB.
        for (value, unit) in [(swapped_in, self.page_size), (swapped_out, self.page_size), (paged_in, 1024), (paged_out, 1024)] {
            *value = value.map(|count| count.saturating_mul(unit));
        }
        for (series, value) in self.counters.iter().zip(values) {
            if let Some(value) = value {
                batch.push_count(series, value);
            }
        }
        Ok(())
    }
}

impl Collector for Memory {
    fn collect(&mut self, batch: &mut Batch) -> Result<(), ReadError> {
        let meminfo = self.collect_meminfo(batch);
        self.collect_vmstat(batch)?;
        meminfo
    }
}

/// A line like `MemTotal:       24684096 kB`: its name and its value in bytes. Numbers without a unit are counts.
fn parse_meminfo_line(line: &[u8]) -> Result<(&[u8], u64), Expected> {
    let mut rest = fields(line);
    let name = rest.next().and_then(|name| name.strip_suffix(b":")).ok_or("a name with a colon")?;
    let value = rest.number().ok_or("a number")?;
    match rest.next() {
        None => Ok((name, value)),
        Some(b"kB") => Ok((name, value.checked_mul(1024).ok_or("a number of kB that fits")?)),
        Some(_) => Err("kB or nothing"),
    }
}

/// The values of the gauges from what `/proc/meminfo` says; `min_free` is vm.min_free_kbytes.
fn gauges(meminfo: Meminfo, min_free: Option<u64>) -> [Option<f64>; 14] {
    let values = meminfo.map(|value| value.map(|bytes| bytes as f64));
    let [total, free, available, buffers, cached, dirty, writeback, slab, reclaimable, active, inactive, swap, swap_free] =
        values;
    let available = available.or_else(|| {
        let min_free = min_free.map(|kilobytes| kilobytes as f64 * 1024.0);
        Some(estimate_available(free?, active? + inactive?, reclaimable?, min_free?))
    });
    let used = total.zip(available).map(|(total, available)| (total - available).max(0.0));
    let usage = used.zip(total).and_then(|(used, total)| percent(used, total));
    let swap_used = swap.zip(swap_free).map(|(swap, free)| (swap - free).max(0.0));
    let swap_usage = swap_used.zip(swap).and_then(|(used, swap)| percent(used, swap));
    [total, free, available, used, usage, buffers, cached, dirty, writeback, slab, reclaimable, swap, swap_used, swap_usage]
}

/// What `MemAvailable` would be: the estimate of `si_mem_available` (mm/page_alloc.c), with the low watermark taken from
/// vm.min_free_kbytes as procps does.
fn estimate_available(free: f64, file_cache: f64, reclaimable: f64, min_free: f64) -> f64 {
    let low = min_free * 5.0 / 4.0;
    (free - low + file_cache - (file_cache / 2.0).min(low) + reclaimable - (reclaimable / 2.0).min(low)).max(0.0)
}

/// Swapped in, swapped out, major faults; scanned by kswapd, scanned directly, stolen by kswapd, stolen directly; all faults,
/// paged in, paged out, stalls, refaults.
#[derive(Debug, Default, PartialEq)]
struct Vmstat([Option<u64>; 12]);

impl Vmstat {
    /// Takes one line. Before 4.8 the counters of reclaim were kept by zone, as in `pgscan_kswapd_dma32`, and those of stalls are
    /// since then; refaults are kept by kind since 5.9. They are summed.
    fn read(&mut self, line: &[u8]) -> Result<(), Expected> {
        let mut rest = fields(line);
        let name = rest.next().ok_or("a name")?;
        let [
            swap_in,
            swap_out,
            major_faults,
            scan_kswapd,
            scan_direct,
            steal_kswapd,
            steal_direct,
            faults,
            paged_in,
            paged_out,
            stalls,
            refaults,
        ] = &mut self.0;
        let slot = match name {
            b"pswpin" => swap_in,
            b"pswpout" => swap_out,
            b"pgmajfault" => major_faults,
            b"pgfault" => faults,
            b"pgpgin" => paged_in,
            b"pgpgout" => paged_out,
            b"pgscan_direct_throttle" => return Ok(()),
            _ if name.starts_with(b"pgscan_kswapd") => scan_kswapd,
            _ if name.starts_with(b"pgscan_direct") => scan_direct,
            _ if name.starts_with(b"pgsteal_kswapd") => steal_kswapd,
            _ if name.starts_with(b"pgsteal_direct") => steal_direct,
            _ if name.starts_with(b"allocstall") => stalls,
            _ if name.starts_with(b"workingset_refault") => refaults,
            _ => return Ok(()),
        };
        let value = rest.number().ok_or("a number")?;
        *slot = Some(slot.unwrap_or_default().saturating_add(value));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collectors::text::mangle;

    #[test]
    fn meminfo_lines_are_read() {
        assert_eq!(parse_meminfo_line(b"MemTotal:       24684096 kB"), Ok((&b"MemTotal"[..], 24_684_096 * 1024)));
        assert_eq!(parse_meminfo_line(b"Active(file):     403132 kB"), Ok((&b"Active(file)"[..], 403_132 * 1024)));
        assert_eq!(parse_meminfo_line(b"HugePages_Total:       0"), Ok((&b"HugePages_Total"[..], 0)));
        assert_eq!(parse_meminfo_line(b"MemTotal:       246"), Ok((&b"MemTotal"[..], 246)));
        assert_eq!(parse_meminfo_line(b"MemTotal:"), Err("a number"));
        assert_eq!(parse_meminfo_line(b"MemTotal 1 kB"), Err("a name with a colon"));
        assert_eq!(parse_meminfo_line(b"MemTotal: 1 k"), Err("kB or nothing"));
    }

    #[test]
    fn available_is_estimated_where_the_kernel_does_not_say() {
        let mib = |number: u64| Some(number << 20);
        let without = [mib(1000), mib(100), None, None, None, None, None, None, mib(40), mib(150), mib(250), None, None];
        // The low watermark is 80 MiB: 100 - 80 + 400 - 80 + 40 - 20.
        let [_, _, available, used, usage, ..] = gauges(without, Some(64 << 10));
        assert_eq!(available, Some(360.0 * 1024.0 * 1024.0));
        assert_eq!(used, Some(640.0 * 1024.0 * 1024.0));
        assert_eq!(usage, Some(64.0));

        let [total, _, available, used, usage, ..] = gauges(without, None);
        assert!(total.is_some());
        assert_eq!([available, used, usage], [None; 3], "nothing is made up");
    }

    #[test]
    fn reclaim_is_summed_over_zones_and_not_over_totals() {
        let read = |text: &[u8]| {
            let mut vmstat = Vmstat::default();
            text.split(|&byte| byte == b'\n').for_each(|line| vmstat.read(line).unwrap());
            vmstat
        };
        // 3.10
        let old = read(
            b"pswpin 1\npswpout 2\npgmajfault 3\npgsteal_kswapd_dma 0\npgsteal_kswapd_dma32 5\npgsteal_kswapd_normal 6\n\
              pgsteal_direct_normal 7\npgscan_kswapd_dma32 8\npgscan_kswapd_normal 9\npgscan_direct_normal 10\n\
              pgscan_direct_throttle 1000\nallocstall 12\npgpgin 13\npgpgout 14",
        );
        let [io, reclaim, paging] = [
            [Some(1), Some(2), Some(3)].as_slice(),
            &[Some(17), Some(10), Some(11), Some(7)],
            &[None, Some(13), Some(14), Some(12), None],
        ];
        assert_eq!(old.0.as_slice(), [io, reclaim, paging].concat());
        // 6.18
        let new = read(
            b"pgmajfault 3\npgsteal_kswapd 4\npgsteal_direct 5\npgsteal_khugepaged 100\npgscan_kswapd 6\npgscan_direct 7\n\
              pgscan_direct_throttle 1000\npgscan_anon 13\npgscan_file 0\npgsteal_anon 9\npgfault 20\n\
              allocstall_dma 1\nallocstall_normal 2\nallocstall_movable 4\nworkingset_refault_anon 8\nworkingset_refault_file 16",
        );
        let [io, reclaim, paging] =
            [[None, None, Some(3)].as_slice(), &[Some(6), Some(7), Some(4), Some(5)], &[Some(20), None, None, Some(7), Some(24)]];
        assert_eq!(new.0.as_slice(), [io, reclaim, paging].concat());
    }

    #[test]
    fn no_input_panics() {
        mangle(b"MemTotal:       24684096 kB", |line| {
            let _ = parse_meminfo_line(line);
        });
        mangle(b"pgscan_kswapd 18446744073709551615", |line| {
            let _ = Vmstat::default().read(line);
        });
        gauges([Some(u64::MAX); 13], Some(u64::MAX));
    }
}
