//! A run with a real broker: the clients' account is complete, and a healthy broker loses nothing.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

#[test]
fn a_broker_without_a_gateway_loses_repeats_and_reorders_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let scenario = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tiny-amqp.yaml");
    let output = Command::new(env!("CARGO_BIN_EXE_fleet"))
        .current_dir(folder.path())
        .arg("replay")
        .arg(scenario)
        .args(["--quiet", "--no-gateway", "--json", "result.json", "--html", "page.html"])
        .output()
        .unwrap();
    let said =
        format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    let json = std::fs::read_to_string(folder.path().join("result.json")).unwrap();
    let result: Value = serde_json::from_str(&json).unwrap();
    let summary = &result["runs"][0]["summary"];
    let (amqp, total) = (&summary["amqp"], &summary["amqp"]["total"]);
    for fault in
        ["lost", "missing", "duplicated", "redelivered", "reordered", "damaged", "refused", "returned"]
    {
        assert_eq!(total[fault], 0, "{fault}: {said}");
    }
    assert_eq!(total["sent"], total["consumed"], "{said}");
    assert_eq!(total["consumed"], total["acked"], "{said}");
    assert_eq!((&amqp["left_in_queues"], &amqp["errors"]), (&0.into(), &serde_json::json!({})), "{said}");
    for group in amqp["groups"].as_array().unwrap() {
        assert!(group["account"]["consumed"].as_u64().unwrap() >= 10, "{group}");
        let confirms = !group["label"].as_str().unwrap().contains("no confirms");
        let account = &group["account"];
        assert_eq!(account["confirmed"] == account["sent"], confirms, "{group}");
    }
    assert_eq!(summary["connected"], 11, "each client is one connection: {said}");
    assert!(
        std::fs::read_to_string(folder.path().join("page.html")).unwrap().contains("connections per node")
    );
}
