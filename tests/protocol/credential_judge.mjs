// The reference verifier of W3C credentials, driven by lines of JSON: used by test_credential_judge.py.
// It never sees the network: contexts and did:key documents are given or computed here.
import { createInterface } from "node:readline";
import { DataIntegrityProof } from "@digitalbazaar/data-integrity";
import * as multikey from "@digitalbazaar/ed25519-multikey";
import * as jcs from "@digitalbazaar/eddsa-jcs-2022-cryptosuite";
import * as vc from "@digitalbazaar/vc";
import canonicalize from "canonicalize";
import jsonld from "jsonld";

globalThis.fetch = () => {
  throw new Error("no network here");
};
const contexts = new Map();

// A did:key document says nothing that is not in the DID: did:key:K, with the one key did:key:K#K.
function didDocument(url) {
  const [did, fragment] = url.split("#");
  const key = did.slice("did:key:".length);
  const method = { id: `${did}#${key}`, type: "Multikey", controller: did, publicKeyMultibase: key };
  const multikeyContext = "https://w3id.org/security/multikey/v1";
  if (fragment === undefined) {
    const contexts = ["https://www.w3.org/ns/did/v1", multikeyContext];
    return { "@context": contexts, id: did, assertionMethod: [method.id], verificationMethod: [method] };
  }
  if (fragment !== key) throw new Error(`${did} has no key ${fragment}`);
  return { "@context": multikeyContext, ...method };
}

async function documentLoader(url) {
  const document = contexts.get(url) ?? (url.startsWith("did:key:") ? didDocument(url) : undefined);
  if (document !== undefined) return { contextUrl: null, documentUrl: url, document };
  return vc.defaultDocumentLoader(url); // the W3C's contexts, which come with the package
}

async function verify(credential, now) {
  const suite = new DataIntegrityProof({ cryptosuite: jcs.createVerifyCryptosuite() });
  const result = await vc.verifyCredential({ credential, suite, documentLoader, now });
  return result.verified ? null : String(result.error?.errors?.[0]?.message ?? result.error);
}

const calls = {
  context: async ({ url, document }) => void contexts.set(url, document),
  // For each credential null if it verifies, else why it does not.
  verify: async ({ credentials, now }) => {
    const answers = [];
    for (const one of credentials) answers.push(await verify(JSON.parse(one), new Date(now)));
    return answers;
  },
  // N-Quads of a credential. Safe mode: an error where any member has no meaning in its contexts.
  quads: async ({ credential }) =>
    jsonld.toRDF(JSON.parse(credential), { documentLoader, safe: true, format: "application/n-quads" }),
  issue: async ({ credential, did, publicKeyMultibase, secretKeyMultibase, created }) => {
    const id = `${did}#${publicKeyMultibase}`;
    const key = await multikey.from({ id, controller: did, type: "Multikey", publicKeyMultibase, secretKeyMultibase });
    const suite = new DataIntegrityProof({ signer: key.signer(), cryptosuite: jcs.createSignCryptosuite() });
    if (created !== null) suite.proof = { created }; // else now, in whole seconds
    return canonicalize(await vc.issue({ credential, suite, documentLoader }));
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const ask = JSON.parse(line);
  let said;
  try {
    said = { answer: (await calls[ask.call](ask)) ?? null };
  } catch (error) {
    said = { error: String(error?.stack ?? error) };
  }
  process.stdout.write(JSON.stringify(said) + "\n");
}
