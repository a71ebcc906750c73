package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/sirupsen/logrus"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// DiskImages copies image files into a folder. The config of its VolumeSnapshotLocation:
//
//	folder   where snapshots and log.jsonl are kept; needed
//	delay    a Go duration that every snapshot waits before it copies, as a slow array would
//	gate     a path: no snapshot goes on while a file is there
//	failure  a text: every snapshot fails with it, after the wait
type DiskImages struct {
	logger  logrus.FieldLogger
	folder  string
	delay   time.Duration
	gate    string
	failure string
}

// An entry of log.jsonl: one when a snapshot starts, one with End when it is there.
type entry struct {
	Snapshot string     `json:"snapshot"`
	Volume   string     `json:"volume"`
	Backup   string     `json:"backup"`
	Start    time.Time  `json:"start"`
	End      *time.Time `json:"end,omitempty"`
}

// Init takes the location's config.
func (d *DiskImages) Init(config map[string]string) error {
	d.folder, d.gate, d.failure = config["folder"], config["gate"], config["failure"]
	if d.folder == "" {
		return fmt.Errorf("the VolumeSnapshotLocation's config has no folder")
	}
	if config["delay"] != "" {
		delay, err := time.ParseDuration(config["delay"])
		if err != nil {
			return fmt.Errorf("the VolumeSnapshotLocation's delay: %w", err)
		}
		d.delay = delay
	}
	return os.MkdirAll(d.folder, 0o755)
}

// GetVolumeID returns the hostPath of a PersistentVolume, or nothing for other sources.
func (d *DiskImages) GetVolumeID(pv runtime.Unstructured) (string, error) {
	path, _, err := unstructured.NestedString(pv.UnstructuredContent(), "spec", "hostPath", "path")
	return path, err
}

// SetVolumeID puts a restored image in the place of the one that was backed up.
func (d *DiskImages) SetVolumeID(pv runtime.Unstructured, volumeID string) (runtime.Unstructured, error) {
	return pv, unstructured.SetNestedField(pv.UnstructuredContent(), volumeID, "spec", "hostPath", "path")
}

// GetVolumeInfo knows one type of volume.
func (d *DiskImages) GetVolumeInfo(_, _ string) (string, *int64, error) {
	return "disk-image", nil, nil
}

// CreateSnapshot copies the image; the copy's file name is the snapshot's id.
func (d *DiskImages) CreateSnapshot(volumeID, _ string, tags map[string]string) (string, error) {
	taken := entry{Volume: volumeID, Backup: tags["velero.io/backup"], Start: time.Now().UTC()}
	taken.Snapshot = fmt.Sprintf("%s.%s.%d", taken.Backup, tags["velero.io/pv"], taken.Start.UnixNano())
	if err := d.log(taken); err != nil {
		return "", err
	}
	d.wait()
	if d.failure != "" {
		return "", fmt.Errorf("%s", d.failure)
	}
	if err := copyImage(volumeID, filepath.Join(d.folder, taken.Snapshot)); err != nil {
		return "", err
	}
	end := time.Now().UTC()
	taken.End = &end
	return taken.Snapshot, d.log(taken)
}

// CreateVolumeFromSnapshot copies back, to a new image beside the snapshots.
func (d *DiskImages) CreateVolumeFromSnapshot(snapshotID, _, _ string, _ *int64) (string, error) {
	path := filepath.Join(d.folder, fmt.Sprintf("%s.restored.%d", snapshotID, time.Now().UnixNano()))
	return path, copyImage(filepath.Join(d.folder, snapshotID), path)
}

// DeleteSnapshot removes the copy; one that is gone is no error.
func (d *DiskImages) DeleteSnapshot(snapshotID string) error {
	if err := os.Remove(filepath.Join(d.folder, snapshotID)); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

func (d *DiskImages) wait() {
	time.Sleep(d.delay)
	for d.gate != "" {
		if _, err := os.Stat(d.gate); os.IsNotExist(err) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (d *DiskImages) log(line entry) error {
	text, err := json.Marshal(line)
	if err != nil {
		return err
	}
	file, err := os.OpenFile(filepath.Join(d.folder, "log.jsonl"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = file.Write(append(text, '\n'))
	return err
}

func copyImage(from, to string) error {
	output, err := exec.Command("cp", "--sparse=always", "--reflink=auto", from, to).CombinedOutput()
	if err != nil {
		return fmt.Errorf("copy %s: %w: %s", from, err, output)
	}
	return nil
}
