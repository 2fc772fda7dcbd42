//! What arrives is what is in the file, whatever the layout, the strategy, the selection and the order in which the driver works.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use flashpack::cuda::{Device, DevicePack, LoadOptions, Loader, LoaderOptions, Select, Strategy};
use flashpack::{Error, Layout, Pack};

use crate::driver::{with_driver, without_driver};
use crate::model::{File, GROUP, Source, loader, threads};

const LAYOUTS: [Layout; 3] = [Layout::Sealed, Layout::V4, Layout::V3];

fn assert_holds_all(on_device: &DevicePack, pack: &Pack) {
    assert_eq!(on_device.len(), pack.manifest().len());
    for tensor in pack.tensors() {
        let found = on_device.tensor(tensor.name).unwrap();
        assert_eq!((found.dtype(), found.shape()), (tensor.dtype, tensor.shape.to_vec().as_slice()));
        assert_eq!(found.to_host().unwrap(), pack.read(tensor.name).unwrap(), "{}", tensor.name);
    }
}

#[test]
fn every_layout_arrives_by_every_strategy() {
    with_driver(|driver| {
        for layout in LAYOUTS {
            let file = File::new(layout);
            let pack = file.open();
            for strategy in [Strategy::Auto, Strategy::Buffered, Strategy::Direct] {
                for count in [1, 3, 16] {
                    let loader = loader(&[Device::open(0).unwrap()]);
                    let options = LoadOptions { strategy, ..threads(count) };
                    let loaded = loader.load(&pack, &options).unwrap();
                    assert_eq!(loaded.verified, layout == Layout::Sealed);
                    assert!(loaded.threads <= count);
                    if strategy != Strategy::Auto {
                        // A file system without O_DIRECT falls back, and says so.
                        assert!([strategy, Strategy::Buffered].contains(&loaded.strategy));
                    }
                    assert_holds_all(&loaded.packs[0], &pack);
                    // One allocation a block, of the block's bytes.
                    let blocks: Vec<u64> = pack.manifest().blocks().map(|block| block.length).collect();
                    let regions: Vec<u64> = loaded.packs[0].regions().map(|(_, length)| length).collect();
                    assert_eq!(regions, blocks);
                    assert_eq!(driver.allocated(), blocks.iter().sum::<u64>());
                    drop(loaded);
                    loader.release();
                    assert_eq!(driver.allocated(), 0);
                }
            }
        }
    });
}

#[test]
fn a_file_that_was_just_written_is_read_through_the_page_cache() {
    with_driver(|_| {
        let file = File::new(Layout::Sealed);
        let loaded = loader(&[Device::open(0).unwrap()]).load(&file.open(), &LoadOptions::default()).unwrap();
        assert_eq!(loaded.strategy, Strategy::Buffered);
    });
}

#[test]
fn nothing_depends_on_when_and_in_which_order_the_driver_works() {
    with_driver(|driver| {
        let file = File::new(Layout::Sealed);
        let pack = file.open();
        for seed in 0..12 {
            driver.reset(2, 1 << 30, seed);
            driver.set_peer(seed % 2 == 0);
            driver.set_delay(200 * (seed % 3), 300);
            let devices = [Device::open(0).unwrap(), Device::open(1).unwrap()];
            let loaded = loader(&devices).load(&pack, &threads(4)).unwrap();
            for on_device in &loaded.packs {
                assert_holds_all(on_device, &pack);
            }
            drop(loaded);
            drop(devices);
            assert_eq!(driver.report(), "");
        }
    });
}

#[test]
fn each_byte_is_read_once_and_crosses_the_link_once_for_each_device_that_has_no_peer() {
    with_driver(|driver| {
        let contents = File::new(Layout::Sealed).contents();
        for (peers, links) in [(false, 3), (true, 1)] {
            driver.reset(3, 1 << 30, 0);
            driver.set_peer(peers);
            let (pack, source) = Source::open(contents.clone());
            let payload = pack.manifest().payload();
            let devices: Vec<_> = (0..3).map(|ordinal| Device::open(ordinal).unwrap()).collect();
            let loaded = loader(&devices).load(&pack, &threads(4)).unwrap();
            assert_eq!(source.bytes_read.load(Ordering::Relaxed), payload.end - payload.start);
            assert_eq!(driver.bytes_copied(), loaded.bytes * links);
            for (number, on_device) in loaded.packs.iter().enumerate() {
                assert_eq!(on_device.device().ordinal() as usize, number);
                assert_holds_all(on_device, &pack);
            }
        }
    });
}

#[test]
fn parts_take_only_their_bytes_and_the_groups_that_they_touch() {
    with_driver(|driver| {
        let contents = File::new(Layout::Sealed).contents();
        let (pack, source) = Source::open(contents);
        let payload = pack.manifest().payload();
        let device = [Device::open(0).unwrap()];
        let loader = loader(&device);
        let selections: [(Select, &[&str]); 5] = [
            (Select::Names(vec!["scale".into(), "embedding".into(), "scale".into()]), &["embedding", "scale"]),
            (Select::Prefixes(vec!["mlp.".into()]), &["mlp.down", "mlp.up"]),
            (Select::Prefixes(vec!["a".into(), "attention".into()]), &["attention.bias", "attention.weight"]),
            (Select::Names(vec!["empty".into()]), &["empty"]),
            (Select::Prefixes(vec!["none".into()]), &[]),
        ];
        for (select, names) in selections {
            source.bytes_read.store(0, Ordering::Relaxed);
            let options = LoadOptions { select, ..threads(2) };
            let loaded = loader.load(&pack, &options).unwrap();
            let on_device = &loaded.packs[0];
            assert_eq!(on_device.tensors().map(|tensor| tensor.name()).collect::<Vec<_>>(), names);
            let mut groups = BTreeSet::new();
            for name in names {
                let tensor = pack.tensor(name).unwrap();
                assert_eq!(on_device.tensor(name).unwrap().to_host().unwrap(), pack.read(name).unwrap());
                let address = on_device.tensor(name).unwrap().address();
                assert!(tensor.length == 0 || address % 512 == tensor.offset % 512, "as well aligned as in the file");
                let within = tensor.offset - payload.start..tensor.range().end - payload.start;
                groups.extend(within.step_by(1).map(|byte| byte / GROUP as u64).collect::<BTreeSet<_>>());
            }
            let most = groups.len() * GROUP;
            // The reads that compare above go through the same source: look at the loader's alone.
            source.bytes_read.store(0, Ordering::Relaxed);
            drop(loader.load(&pack, &options).unwrap());
            let read = source.bytes_read.load(Ordering::Relaxed);
            assert!(read <= most as u64, "{names:?}: {read} bytes were read, {most} are enough");
        }
        assert!(matches!(
            loader.load(&pack, &LoadOptions { select: Select::Names(vec!["none".into()]), ..LoadOptions::default() }),
            Err(Error::NoSuchTensor(_))
        ));
        assert_eq!(driver.allocated(), 0);
        assert!(matches!(Loader::new(&[]).load(&pack, &LoadOptions::default()), Err(Error::Input(_))));
    });
}

#[test]
fn ranks_together_have_every_row_and_every_byte_once() {
    with_driver(|_| {
        for layout in [Layout::Sealed, Layout::V4] {
            let pack = File::new(layout).open();
            let loader = loader(&[Device::open(0).unwrap()]);
            let load = |select| loader.load(&pack, &LoadOptions { select, ..threads(3) }).unwrap();
            for of in [1, 2, 3, 7] {
                let ranks: Vec<_> = (0..of).map(|rank| load(Select::Rows { rank, of })).collect();
                for tensor in pack.tensors() {
                    let parts: Vec<_> = ranks.iter().map(|rank| rank.packs[0].tensor(tensor.name).unwrap()).collect();
                    let Some(rows) = tensor.shape.iter().next() else {
                        assert!(parts.iter().all(|part| part.to_host().unwrap() == pack.read(tensor.name).unwrap()));
                        continue;
                    };
                    assert_eq!(parts.iter().map(|part| part.shape()[0]).sum::<u64>(), rows);
                    assert!(parts.iter().all(|part| part.shape()[1..] == tensor.shape.to_vec()[1..]));
                    let joined: Vec<u8> = parts.iter().flat_map(|part| part.to_host().unwrap()).collect();
                    assert_eq!(joined, pack.read(tensor.name).unwrap(), "{}", tensor.name);
                }
                let shares = (0..of).map(|rank| load(Select::Share { rank, of }));
                let joined: Vec<u8> = shares.flat_map(|share| share.packs[0].read_region(0).unwrap()).collect();
                assert_eq!(joined, load(Select::Bytes(pack.manifest().payload())).packs[0].read_region(0).unwrap());
            }
            let payload = pack.manifest().payload();
            let outside = [payload.start..payload.end + 1, std::ops::Range { start: 5, end: 3 }, u64::MAX - 1..u64::MAX];
            for select in outside.map(Select::Bytes).into_iter().chain([
                Select::Rows { rank: 2, of: 2 },
                Select::Rows { rank: 0, of: 0 },
                Select::Share { rank: 9, of: 3 },
            ]) {
                assert!(matches!(loader.load(&pack, &LoadOptions { select, ..threads(1) }), Err(Error::Input(_))));
            }
            // What lies between the parts of a selection was never anybody's memory.
            let some = load(Select::Names(vec!["attention.bias".into(), "steps".into()]));
            let mut bytes = some.packs[0].read_region(0).unwrap();
            for tensor in some.packs[0].tensors() {
                let start = (tensor.address() - some.packs[0].regions().next().unwrap().0) as usize;
                bytes[start..start + tensor.length() as usize].fill(0);
            }
            assert!(bytes.iter().all(|&byte| byte == 0));
        }
    });
}

#[test]
fn a_registered_mapping_is_copied_as_it_is_and_only_where_nobody_thinks_it_verified() {
    with_driver(|driver| {
        for layout in LAYOUTS {
            let file = File::new(layout);
            let loader = loader(&[Device::open(0).unwrap()]);
            if layout == Layout::Sealed {
                // SAFETY: nobody changes the file.
                let refused = unsafe { loader.load_registered(&file.open(), &LoadOptions::default()) };
                assert!(matches!(refused, Err(Error::Input(_))));
            }
            let pack = file.open_unverified();
            for select in [Select::All, Select::Names(vec!["embedding".into()])] {
                // SAFETY: nobody changes the file.
                let loaded = unsafe { loader.load_registered(&pack, &LoadOptions { select, ..LoadOptions::default() }) }.unwrap();
                assert_eq!((loaded.strategy, loaded.verified), (Strategy::Registered, false));
                for tensor in loaded.packs[0].tensors() {
                    assert_eq!(tensor.to_host().unwrap(), pack.read(tensor.name()).unwrap());
                }
            }
            assert_eq!(driver.calls("cuMemHostAlloc"), 0, "there is no host copy");
            let options = LoadOptions { strategy: Strategy::Registered, ..LoadOptions::default() };
            assert!(matches!(loader.load(&pack, &options), Err(Error::Input(_))));
        }
    });
}

#[test]
fn pinned_buffers_are_kept_between_loads_bounded_and_released() {
    with_driver(|driver| {
        let pack = File::new(Layout::Sealed).open();
        let loader = loader(&[Device::open(0).unwrap()]);
        drop(loader.load(&pack, &threads(2)).unwrap());
        let pinned = driver.calls("cuMemHostAlloc");
        assert_eq!(pinned, 4, "two a thread");
        drop(loader.load(&pack, &threads(2)).unwrap());
        assert_eq!(driver.calls("cuMemHostAlloc"), pinned);
        // As many threads as there are chunks get no more than the bound.
        let loaded = loader.load(&pack, &threads(100)).unwrap();
        assert!(loaded.threads <= 12);
        assert!(loader.pinned_bytes() <= 12 * GROUP);
        loader.release();
        assert_eq!(loader.pinned_bytes(), 0);
        assert_eq!(driver.calls("cuMemFreeHost"), driver.calls("cuMemHostAlloc"));

        // A bound below one buffer is one buffer.
        let tight = Loader::with_options(&[Device::open(0).unwrap()], LoaderOptions::default().pinned_bytes(0));
        let loaded = tight.load(&pack, &threads(4)).unwrap();
        assert_eq!(loaded.threads, 1);
        assert_holds_all(&loaded.packs[0], &pack);
        assert_eq!(tight.pinned_bytes(), 0);
    });
}

#[test]
fn one_loader_serves_many_threads() {
    with_driver(|driver| {
        driver.set_delay(0, 100);
        let pack = File::new(Layout::Sealed).open();
        let loader = loader(&[Device::open(0).unwrap()]);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..3 {
                        assert_holds_all(&loader.load(&pack, &threads(3)).unwrap().packs[0], &pack);
                    }
                });
            }
        });
        assert!(loader.pinned_bytes() <= 12 * GROUP);
    });
}

#[test]
fn the_command_loads_to_a_device_and_compares() {
    with_driver(|_| {
        let file = File::new(Layout::Sealed);
        let run = |arguments: &[&str]| {
            let mut command = assert_cmd::Command::cargo_bin("flashpack").unwrap();
            command.arg("load").arg(&file.path).args(arguments).output().unwrap()
        };
        for arguments in [
            &[][..],
            &["--strategy", "direct", "--threads", "2"],
            &["--strategy", "registered", "--no-verify"],
            &["--shard", "1/3"],
            &["--share", "1/3"],
            &["--prefix", "mlp."],
            &["--tensor", "scale"],
            &["--repeat", "3"],
        ] {
            let output = run(&[&["--device", "cuda:0", "--check", "-j"], arguments].concat());
            assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
            let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!((document["device"].as_str(), document["checked"].as_bool()), (Some("cuda:0"), Some(true)));
            let repeated = arguments.contains(&"--repeat");
            assert_eq!(document["runs"].as_array().unwrap().len(), if repeated { 3 } else { 1 });
        }
        for (arguments, message) in [
            (&["--device", "cuda:9"][..], "no such device"),
            (&["--device", "cuda:0", "--strategy", "registered"], "cannot verify"),
            (&["--device", "gpu"], "no such device"),
            (&["--strategy", "direct"], "--device cuda:0"),
            (&["--device", "cuda:0", "--shard", "3/3"], "less than N"),
        ] {
            let output = run(arguments);
            assert_eq!(output.status.code(), Some(2));
            assert!(String::from_utf8_lossy(&output.stderr).contains(message), "{}", String::from_utf8_lossy(&output.stderr));
        }
        let help = run(&["--help"]);
        let help = String::from_utf8_lossy(&help.stdout).into_owned();
        assert!(help.find("--json").unwrap() < help.find("For GPUs").unwrap());
        let text = run(&["--device", "cuda:0"]);
        assert!(String::from_utf8_lossy(&text.stdout).contains("verified"));
    });
}

#[test]
fn the_benchmark_has_a_column_for_the_device() {
    with_driver(|_| {
        let mut command = assert_cmd::Command::cargo_bin("flashpack").unwrap();
        let output = command.args(["bench", "-j", "--runs", "1", "models/silero-vad/model.safetensors"]).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stdout).contains("\"gpu\""));
    });
}

#[test]
fn without_a_driver_there_is_a_clear_error() {
    without_driver(|| {
        for error in [Device::open(0).unwrap_err(), Device::count().unwrap_err()] {
            assert!(matches!(&error, Error::Device { device, .. } if device == "cuda"));
            assert!(error.to_string().contains("no NVIDIA driver"), "{error}");
        }
        let file = File::new(Layout::Sealed);
        let mut command = assert_cmd::Command::cargo_bin("flashpack").unwrap();
        let output = command.arg("load").arg(&file.path).args(["--device", "cuda:0"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(String::from_utf8_lossy(&output.stderr).lines().count(), 1);
    });
}

/// Has the file on disk and not in memory. Where the temporary folder is memory itself there is nothing to evict.
#[cfg(target_os = "linux")]
#[test]
fn a_file_that_is_not_in_the_page_cache_is_read_past_it() {
    with_driver(|_| {
        let file = File::new(Layout::Sealed);
        let handle = std::fs::File::open(&file.path).unwrap();
        handle.sync_all().unwrap();
        rustix::fs::fadvise(&handle, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        let loader = loader(&[Device::open(0).unwrap()]);
        let pack = file.open();
        let load = |strategy| loader.load(&pack, &LoadOptions { strategy, ..threads(2) }).unwrap();
        let automatic = load(Strategy::Auto);
        assert_holds_all(&automatic.packs[0], &pack);
        // What O_DIRECT can do here, Auto does.
        assert_eq!(automatic.strategy, load(Strategy::Direct).strategy);
    });
}
