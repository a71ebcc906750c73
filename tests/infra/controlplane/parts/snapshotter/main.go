// Command velero-plugin-disk-images is a Velero VolumeSnapshotter that stands in for a storage array.
//
// Its volumes are disk images: files that a PersistentVolume names as hostPath. A snapshot is a copy of the file as it is at
// that moment, without a word to whoever writes it, which is what an array sees of a guest. Imitated is only the array;
// Velero finds, starts and calls this program as it does any vendor's plugin.
package main

import (
	"github.com/sirupsen/logrus"
	"github.com/vmware-tanzu/velero/pkg/plugin/framework"
)

func main() {
	framework.NewServer().
		RegisterVolumeSnapshotter("vm-consistency.test/disk-images", func(logger logrus.FieldLogger) (any, error) {
			return &DiskImages{logger: logger}, nil
		}).
		Serve()
}
