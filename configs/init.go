package configs

import (
	"bytes"
	_ "embed"
)

//go:embed init.yaml
var initYAML []byte // embedded

// InitTemplate gives the commented sbx.yaml that `sbx init` writes. It is valid
// and changes nothing.
func InitTemplate() []byte { return bytes.Clone(initYAML) }
