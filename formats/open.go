package formats

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// OpenRegular opens a file for reading if it is a regular one: opening a pipe
// would wait for its writer. Errors name the path; what is not regular is a
// FormatError.
func OpenRegular(path string) (*os.File, error) {
	var f *os.File
	st, err := os.Stat(path)
	if err == nil {
		if !st.Mode().IsRegular() {
			return nil, Malformedf(path, -1, "not a regular file")
		}
		f, err = os.Open(path)
	}
	if err != nil {
		var pe *fs.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}
