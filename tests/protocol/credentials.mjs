// What a verifier of W3C credentials needs beside the library: contexts, did:key documents, a suite.
// It never sees the network: what it looks up is given or computed here.
import { DataIntegrityProof } from "@digitalbazaar/data-integrity";
import * as jcs from "@digitalbazaar/eddsa-jcs-2022-cryptosuite";
import * as vc from "@digitalbazaar/vc";
import * as statusLists from "@digitalbazaar/vc-bitstring-status-list";

globalThis.fetch = () => {
  throw new Error("no network here");
};
export const contexts = new Map();
export const lists = new Map(); // status lists, by the name that credentials give them

// A did:key document says nothing that is not in the DID: did:key:K, with the one key did:key:K#K.
export function didDocument(url) {
  const [did, fragment] = url.split("#");
  const key = did.slice("did:key:".length);
  const method = { id: `${did}#${key}`, type: "Multikey", controller: did, publicKeyMultibase: key };
  const multikeyContext = "https://w3id.org/security/multikey/v1";
  if (fragment === undefined) {
    const contexts = ["https://www.w3.org/ns/did/v1", multikeyContext];
    const may = { assertionMethod: [method.id], authentication: [method.id] };
    return { "@context": contexts, id: did, ...may, verificationMethod: [method] };
  }
  if (fragment !== key) throw new Error(`${did} has no key ${fragment}`);
  return { "@context": multikeyContext, ...method };
}

export async function documentLoader(url) {
  const document = contexts.get(url) ?? lists.get(url) ?? (url.startsWith("did:key:") ? didDocument(url) : undefined);
  if (document !== undefined) return { contextUrl: null, documentUrl: url, document };
  return vc.defaultDocumentLoader(url); // the W3C's contexts, which come with the package
}

export const verifySuite = () => new DataIntegrityProof({ cryptosuite: jcs.createVerifyCryptosuite() });

// Null if it verified, else why it did not.
export function reason(result) {
  if (result.verified) return null;
  const inner = [result, ...(result.credentialResults ?? [])].map((one) => one.error).find((one) => one);
  return String(inner?.errors?.[0]?.message ?? inner ?? result.statusResult?.error ?? "not verified");
}

// Good if the list verifies and has the bit unset. `matching`: it has to be the issuer's own.
export function statusAt(now, matching) {
  return async ({ credential }) => {
    const list = lists.get(credential.credentialStatus.statusListCredential);
    const ofList = await vc.verifyCredential({ credential: list, suite: verifySuite(), documentLoader, now });
    if (!ofList.verified) return ofList;
    const found = await statusLists.checkStatus({
      credential,
      suite: verifySuite(),
      documentLoader,
      verifyBitstringStatusListCredential: false, // done, as of `now`, which it does not take
      verifyMatchingIssuers: matching,
    });
    const good = found.verified && found.results.every(({ status }) => status === false);
    return { ...found, verified: good };
  };
}

// Null if it is valid at `now` and its status list says nothing against it, else why it is not.
export async function verify(credential, now, matching) {
  const checkStatus = statusAt(now, matching);
  return reason(await vc.verifyCredential({ credential, suite: verifySuite(), documentLoader, checkStatus, now }));
}
