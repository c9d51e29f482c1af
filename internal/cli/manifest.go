package cli

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/smeltgguf/smelt/internal/manifest"
	"github.com/smeltgguf/smelt/internal/stream"
)

// manifests are the sidecar files of a run's outputs, one per model. They are
// claimed before the run, so that it does not fail over them at its end.
type manifests struct {
	outputs [][]string // files of each model
	files   []*stream.Output
	imatrix string
	inputs  chan hashed
	cancel  context.CancelFunc
}

type hashed struct {
	files []manifest.File
	err   error
}

// newManifests claims the manifests' names and begins to read the inputs,
// beside the run. imatrix may be empty. read are all files that were read, none
// of which a manifest may replace.
func newManifests(ctx context.Context, outputs [][]string, inputs []string, imatrix string, read []string, force bool) (*manifests, error) {
	m := &manifests{outputs: outputs, imatrix: imatrix, inputs: make(chan hashed, 1)}
	paths := slices.Clone(inputs)
	if imatrix != "" {
		paths = append(paths, imatrix)
	}
	var specs []stream.Spec
	for _, o := range outputs {
		specs = append(specs, stream.Spec{Path: manifest.Path(o[0])})
	}
	var err error
	if m.files, err = stream.CreateAll(specs, force, read); err != nil {
		return nil, err
	}
	ctx, m.cancel = context.WithCancel(ctx)
	go func() {
		files, err := manifest.HashAll(ctx, paths, nil)
		m.inputs <- hashed{files, err}
	}()
	return m, nil
}

// commit reads the finished outputs once more, for they are not written in
// order, and writes the manifests. types are the models' file types.
func (m *manifests) commit(ctx context.Context, types []string) error {
	in := <-m.inputs
	if in.err != nil {
		return in.err
	}
	command := append([]string{strings.TrimSuffix(filepath.Base(os.Args[0]), ".exe")}, manifest.Command(os.Args[1:])...)
	for i, paths := range m.outputs {
		v := manifest.Manifest{Smelt: versionString(), Command: command, Type: types[i], Inputs: in.files}
		if m.imatrix != "" {
			last := len(in.files) - 1
			v.Inputs, v.Imatrix = in.files[:last], &in.files[last]
		}
		var err error
		if v.Outputs, err = manifest.HashAll(ctx, paths, nil); err != nil {
			return err
		}
		data, err := v.Encode()
		if err != nil {
			return err
		}
		if _, err := m.files[i].WriteAt(data, 0); err != nil {
			return err
		}
	}
	return stream.CommitAll(m.files)
}

// giveUp removes what is unfinished; after commit it does nothing.
func (m *manifests) giveUp() {
	m.cancel()
	for _, f := range m.files {
		f.Abort()
	}
}

// manifestOf returns the manifest to check a model with: the one that was
// named, or the one beside it; "" if there is none.
func manifestOf(named, model string) (string, error) {
	if named != "" {
		return named, nil
	}
	path := manifest.Path(model)
	_, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	return path, err
}
